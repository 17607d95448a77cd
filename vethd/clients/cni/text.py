"""JSON with the interpreter's own C scanner: the json package takes 6 ms to import, as long as everything else."""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BLANK = " \t\n\r"


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


class _Context:
    """The attributes of json.JSONDecoder that the scanner reads.

    If a key is repeated, its last value counts, as in the json package.
    """

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner clears it


_scan = _json.make_scanner(_Context())  # type: ignore[arg-type] # any object with these attributes works


def decode(data: bytes) -> Any:
    """Parse a JSON text in UTF-8. Raises ValueError."""
    text = data.decode()
    start = len(text) - len(text.lstrip(_BLANK))
    try:
        value, end = _scan(text, start)
        if not text[end:].strip(_BLANK):
            return value
    except (StopIteration, SystemError, RecursionError):  # the scanner does not describe the error; json does
        pass
    import json  # noqa: PLC0415 - only to describe an error

    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def encode(value: Any) -> str:
    """Return a value, of the types that decode() returns, as JSON in ASCII."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_string(key)}:{encode(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(encode(one) for one in value) + "]"
    if isinstance(value, str):
        return _string(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def _string(text: str) -> str:
    return str(_json.encode_basestring_ascii(text))
