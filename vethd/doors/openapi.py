"""GET /v1/openapi.json, generated from the table of operations and the types."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vethd import __version__
from vethd.doors.operations import ROUTES
from vethd.doors.routing import Route
from vethd.model.api import ErrorBody, PairEvent

_REF = "#/components/schemas/{name}"


def schema() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    types = [kind for route in ROUTES for kind in (route.body, route.reply) if kind is not None]
    _, components = msgspec.json.schema_components([*types, ErrorBody, PairEvent], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    stream = {"description": "One event per line, until the client hangs up.", **_content(PairEvent, "x-ndjson")}
    paths["/v1/events"] = {"get": {"summary": "Follow the events.", "responses": {"200": stream}}}
    text = {"description": "Prometheus text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    paths["/metrics"] = {"get": {"summary": "Read all counters.", "responses": {"200": text}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "vethd", "version": __version__, "description": "veth in userspace"},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", route.path)
    queried = (*(("netns",) if "name" in names else ()), *route.query)
    parameters = [
        {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}
        for where, some in (("path", names), ("query", queried))
        for name in some
    ]
    answer: dict[str, Any] = {"description": "Done."}
    if route.reply is not None:
        answer |= _content(route.reply)
    operation: dict[str, Any] = {
        "summary": (route.handler.__doc__ or "").strip(),
        "responses": {str(route.status): answer, "default": {"description": "Refused.", **_content(ErrorBody)}},
    }
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"required": True, **_content(route.body)}
    return operation


def _content(kind: Any, subtype: str = "json") -> dict[str, Any]:
    (schema_of,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return {"content": {f"application/{subtype}": {"schema": schema_of}}}
