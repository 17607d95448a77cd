"""JSON by the interpreter's own C scanner: the json package around it takes 6 ms to import, as long as all the rest."""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BLANK = " \t\n\r"


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


class _Context:
    """What the scanner asks json.JSONDecoder for; of a key said twice the last one counts, as there."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner clears it


_scan = _json.make_scanner(_Context())  # type: ignore[arg-type] # it takes whatever has these attributes


def decode(data: bytes) -> Any:
    """Read a JSON text in UTF-8. Raises ValueError."""
    text = data.decode()
    start = len(text) - len(text.lstrip(_BLANK))
    try:
        value, end = _scan(text, start)
        if not text[end:].strip(_BLANK):
            return value
    except (StopIteration, SystemError, RecursionError):  # the scanner alone has no words for a mistake
        pass
    import json  # noqa: PLC0415 - for mistakes alone

    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def encode(value: Any) -> str:
    """Write what decode() gives as JSON, in ASCII."""
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
