"""The OpenAPI document: complete, sound in itself, and one with docs/api.md and with the types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vethd import __version__
from vethd.doors.openapi import schema
from vethd.doors.operations import ROUTES
from vethd.model.api import ErrorBody, LinkInfo, LinkStats, PairChange, PairEvent, PairInfo
from vethd.model.drops import Drop
from vethd.model.spec import LinkSpec, PairSpec

REPO = Path(__file__).parents[2]
METHODS = {"get", "post", "patch", "delete", "put"}


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(msgspec.json.encode(schema()))


def walk(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield every (key, value) of the document."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def operations(document: Any) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in document["paths"].items() for method in item}


def documented() -> set[tuple[str, str]]:
    """Return the requests in the table of docs/api.md."""
    lines = (REPO / "docs" / "api.md").read_text().splitlines()
    rows = [re.match(r"\| (GET|POST|PATCH|DELETE|PUT) (/[^ ?|]+)", line) for line in lines]
    return {(row[1], row[2]) for row in rows if row}


def test_it_is_openapi(document: Any) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "vethd"
    assert document["info"]["version"] == __version__
    for item in document["paths"].values():
        assert set(item) <= METHODS
        for operation in item.values():
            assert operation["summary"]
            assert operation["responses"]
            for response in operation["responses"].values():
                assert response["description"]


def test_every_reference_leads_somewhere(document: Any) -> None:
    references = [value for key, value in walk(document) if key == "$ref"]
    assert references
    for reference in references:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert isinstance(node, dict)


def test_no_schema_is_idle(document: Any) -> None:
    used = {value.rpartition("/")[2] for key, value in walk(document) if key == "$ref"}
    assert used == set(document["components"]["schemas"])


def test_each_route_is_there(document: Any) -> None:
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        answer = operation["responses"][str(route.status)]
        assert ("content" in answer) == (route.reply is not None)
        assert ("requestBody" in operation) == (route.body is not None)
        assert operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


def test_path_variables_are_declared(document: Any) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            parameters = operation.get("parameters", [])
            declared = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            assert all(parameter["required"] for parameter in parameters if parameter["in"] == "path")
            query = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
            asked = ["n", "reason", "after"] if path.endswith("/drops") else []
            assert query == (["netns"] if "{name}" in path else []) + asked


def test_docs_and_document_are_one(document: Any) -> None:
    own = ("GET", "/v1/openapi.json")  # it does not describe itself
    assert own in documented()
    assert documented() - {own} == operations(document) - {own}


def test_docs_name_each_routes_types() -> None:
    """The columns body and reply of docs/api.md are the types of the route."""
    rows = {}
    for line in (REPO / "docs" / "api.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found = re.match(r"(GET|POST|PATCH|DELETE) (/[^ ?]+)", cells[0])
        if found and len(cells) == 3:
            rows[found[1], found[2]] = cells
    for route in ROUTES:
        _, body, reply = rows[route.method, route.path]
        assert body == (route.body.__name__ if route.body else "")
        assert reply.startswith(str(route.status))
        if isinstance(route.reply, type) and hasattr(route.reply, "__struct_fields__"):
            assert route.reply.__name__ in reply


@pytest.mark.parametrize("kind", [LinkSpec, PairSpec, PairChange, PairInfo, LinkInfo, LinkStats, ErrorBody, PairEvent])
def test_schemas_are_the_types(document: Any, kind: Any) -> None:
    found = document["components"]["schemas"][kind.__name__]
    assert set(found["properties"]) == set(kind.__struct_fields__)
    if kind.__struct_config__.forbid_unknown_fields:
        assert found["additionalProperties"] is False


def test_docs_name_every_drop_nowhere_wrong() -> None:
    """Reasons are stable names; the kernel's begin with kernel_."""
    assert [drop.label for drop in Drop] == [
        "no_peer", "peer_down", "no_carrier", "oversize", "runt", "bad_vnet_header", "write_error", "stale",
    ]  # fmt: skip
