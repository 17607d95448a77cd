"""Reads [[pair]] tables, and any other TOML table, into structs; every error names file, key and reason.

Pure: text in, specs out. The caller passes the name of the text's file in `file`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from vethd.model.api import PairSet
from vethd.model.errors import ConfigError, VethError
from vethd.model.plan import canonical_netns
from vethd.model.spec import LinkSpec, PairSpec, validate_link

T = TypeVar("T")

_AT = re.compile(r"(?P<what>.*?)(?: - at (?:key in )?`\$(?P<path>.*)`)?\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


def read_toml(text: str, file: str) -> dict[str, Any]:
    """Parse TOML. Raises ConfigError with the parser's message, which has the line and column."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number or a nesting beyond Python's limits
        raise ConfigError(file, "", f"not TOML: {error}") from error


def convert(table: object, type: type[T], file: str, key: str) -> T:  # noqa: A002  msgspec's own name
    """Convert a parsed table to type, strictly: a string is no number, and a key that type does not have is an error.

    key is the dotted key of the table in the file, "" for the whole file. Raises ConfigError with the dotted key and
    the reason, e.g. "pair[0].peer.mtu" and "expected int, got str". For an unknown key, the reason suggests the
    closest known key.
    """
    try:
        return msgspec.convert(table, type, strict=True)
    except msgspec.ValidationError as error:
        found = _AT.match(str(error))
        what, path = (found["what"], found["path"] or "") if found else (str(error), "")
        inner = _type_at(type, path)
        unknown = _UNKNOWN.match(what)
        if unknown:
            path += "." + unknown[1]
        reason = _unknown_key(unknown[1], inner) if unknown else _plain(what, inner)
        raise ConfigError(file, f"{key}{path}".removeprefix("."), reason) from error


def read_pairs(text: str, file: str) -> list[PairSpec]:
    """Read a file of [[pair]] tables, with [pair.peer] tables in them, and validate every end.

    Raises ConfigError. `up` is allowed on a peer here: the caller brings the peer up after it has made the pair.
    """
    pairs = convert(read_toml(text, file), PairSet, file, "").pair
    check_pairs(pairs, file)
    return pairs


def check_pairs(pairs: list[PairSpec], file: str) -> None:
    """Validate both ends of every pair, and check that no two ends in a namespace have the same name.

    Raises ConfigError with the key of the faulty attribute; pairs are numbered as the file's [[pair]] tables are.
    """
    seen: dict[tuple[str, str], str] = {}
    for number, pair in enumerate(pairs):
        ends = [(pair.near_end(), f"pair[{number}]")]
        if pair.peer is not None:
            ends.append((pair.peer, f"pair[{number}].peer"))
        for link, key in ends:
            _check_link(link, file, key)
            if link.name is None or "%" in link.name:
                continue
            first = seen.setdefault((canonical_netns(link.netns), link.name), key)
            if first != key:
                raise ConfigError(file, f"{key}.name", f"{link.name} is already the name of {first}")


def _check_link(link: LinkSpec, file: str, key: str) -> None:
    for name in LinkSpec.__struct_fields__:
        value = getattr(link, name)
        if value is None:
            continue
        try:
            validate_link(LinkSpec(**{name: value}))
        except VethError as error:
            raise ConfigError(file, f"{key}.{name}", error.reason) from error


def _unknown_key(name: str, inner: Any) -> str:
    known = list(getattr(inner, "__struct_encode_fields__", ()))
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown key (did you mean {near[0]}?)" if near else "unknown key"


def _plain(what: str, inner: Any) -> str:
    """Say msgspec's message in a user's words: no backticks, no null, the choices where there are some."""
    if what.startswith("Invalid enum value") and get_origin(inner) is Literal:
        choices = ", ".join(str(choice) for choice in get_args(inner))
        return f"expected one of {choices}, got {what.removeprefix('Invalid enum value ')}"
    text = what.replace("`", "").replace(" | null", "").replace("object", "table").replace("Object", "table")
    return text[:1].lower() + text[1:]


def _type_at(type_: Any, path: str) -> Any:
    """Return the type that msgspec's path leads to, without its None; None where the path is not understood."""
    here = _not_none(type_)
    for field, _index in _STEP.findall(path):
        if field:
            infos = msgspec.structs.fields(here) if hasattr(here, "__struct_fields__") else ()
            here = next((info.type for info in infos if info.encode_name == field), None)
        else:
            here = get_args(here)[-1] if get_args(here) else None
        here = _not_none(here)
    return here


def _not_none(type_: Any) -> Any:
    if get_origin(type_) is Literal:
        return type_
    choices = [choice for choice in get_args(type_) if choice is not NoneType]
    return choices[0] if len(choices) == 1 and NoneType in get_args(type_) else type_
