"""Reads [[pair]] tables, and any other TOML table, into structs; every error names file, key and reason.

Pure: text in, specs out. The caller passes the name of the text's file in `file`.
"""

from __future__ import annotations

import difflib
import tomllib
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from vethd.model.api import PairSet
from vethd.model.errors import ConfigError, VethError
from vethd.model.plan import canonical_netns
from vethd.model.spec import LinkSpec, PairSpec, check_latency_queue, validate_link

T = TypeVar("T")

_SPOKEN = {dict: "table", list: "array", NoneType: "null"}


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
        # the message is prose, which the next msgspec may put another way: nothing is read out of it
        path, reason = _fault(table, type) or ("", str(error))
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
        try:
            check_latency_queue(pair)
        except VethError as error:
            raise ConfigError(file, f"pair[{number}].latency_queue", error.reason) from error
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


def _fault(value: Any, wanted: Any) -> tuple[str, str] | None:
    """Return the path, e.g. ".peer.mtu", and the reason of the first thing in value that is not of the type wanted.

    None where nothing is wrong. Knows the types that our structs have: structs, lists, dicts, unions, literals, bounds
    and plain classes. As for msgspec, a bool is no int.
    """
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return _fault(value, arguments[0]) or _out_of_bounds(value, *arguments)
    if origin in (Union, UnionType):
        faults = [_fault(value, each) for each in arguments]
        return None if None in faults else faults[0]
    if origin is Literal:
        choices = ", ".join(str(choice) for choice in arguments)
        return None if value in arguments else ("", f"expected one of {choices}, got {value!r}")
    plain = dict if _is_struct(wanted) else origin or wanted
    if type(value) is not plain:
        return "", f"expected {_spoken(plain)}, got {_spoken(type(value))}"
    if plain is list:
        steps = ((f"[{number}]", _fault(each, arguments[0])) for number, each in enumerate(value))
        return next(((step + found[0], found[1]) for step, found in steps if found), None)
    return _fault_in_table(value, wanted) if plain is dict else None


def _fault_in_table(table: dict[str, Any], wanted: Any) -> tuple[str, str] | None:
    fields = msgspec.structs.fields(wanted) if _is_struct(wanted) else ()
    inner = {each.encode_name: each.type for each in fields} or dict.fromkeys(table, get_args(wanted)[-1])
    for key, each in table.items():
        if key not in inner:
            return f".{key}", _unknown_key(key, list(inner))
        if found := _fault(each, inner[key]):
            return f".{key}{found[0]}", found[1]
    return None


def _is_struct(wanted: Any) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)


def _out_of_bounds(value: Any, wanted: Any, *metas: msgspec.Meta) -> tuple[str, str] | None:
    for meta in metas:
        if meta.ge is not None and value < meta.ge:
            return "", f"expected {_spoken(wanted)} >= {meta.ge}"
        if meta.le is not None and value > meta.le:
            return "", f"expected {_spoken(wanted)} <= {meta.le}"
    return None


def _spoken(plain: type) -> str:
    return _SPOKEN.get(plain, plain.__name__)


def _unknown_key(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown key (did you mean {near[0]}?)" if near else "unknown key"
