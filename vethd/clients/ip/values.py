"""Parse the values of `ip link`'s options as iproute2 does: strtol(3), scanf(3), names of groups."""

from __future__ import annotations

INT_MAX = (1 << 31) - 1
UINT_MAX = (1 << 32) - 1
ULONG_MAX = (1 << 64) - 1
BYTE_MAX = 255
LLADDR_MAX = 32  # MAX_ADDR_LEN
GROUP_FILES = ("/etc/iproute2/group", "/usr/share/iproute2/group", "/usr/lib/iproute2/group")

_DIGITS = "0123456789abcdef"


class UsageError(Exception):
    """iproute2 rejects the line. The message comes from the real ip."""


def integer(text: str, low: int = -INT_MAX - 1, high: int = INT_MAX) -> int:
    """Parse a whole number as strtol(text, base 0) does. Raises UsageError."""
    value = _strtol(text.lstrip(" \t\n\v\f\r"))
    if value is None or not low <= value <= high:
        raise UsageError(text)
    return value


def unsigned(text: str, high: int = UINT_MAX) -> int:
    """Parse a number that must not be negative. Raises UsageError."""
    return integer(text, 0, high)


def leading(text: str) -> int:
    """Parse the digits at the beginning of a text, 0 if there are none, as atoi(3) does."""
    text = text.lstrip(" \t\n\v\f\r")
    sign = -1 if text.startswith("-") else 1
    digits = _while(text[1:] if text[:1] in ("+", "-") and text else text, 10)
    return sign * int(digits or "0")


def lladdr(text: str) -> str:
    """Return a link-layer address as "xx:xx:...": of any length, or from an IPv4 address. Raises UsageError."""
    if "." in text:
        parts = [integer(part, 0, 255) for part in text.split(".")]
        parts += [0] * (4 - len(parts))
        if len(parts) != 4:
            raise UsageError(text)
    else:
        parts = [_byte(part) for part in text.split(":")[:LLADDR_MAX]]
    return ":".join(f"{part:02x}" for part in parts)


def on_off(text: str) -> bool:
    """Parse "on" or "off". Raises UsageError."""
    if text not in ("on", "off"):
        raise UsageError(text)
    return text == "on"


def group(text: str) -> int:
    """Return the number of a device group, which may be given by a name in iproute2's files. Raises UsageError."""
    if text == "default":
        return 0
    for path in GROUP_FILES:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - pathlib costs 5 ms
                rows = [line.partition("#")[0].split() for line in file]
        except OSError:
            continue
        for row in rows:
            if len(row) == 2 and row[1] == text:
                return integer(row[0])
    return integer(text, 0)


def _byte(text: str) -> int:
    """Parse one byte as scanf("%x") into an int does: text after the digits and bits above 32 are lost."""
    text = text.lstrip(" \t\n\v\f\r").lower()
    negative = text.startswith("-")
    text = text[1:] if text[:1] in ("+", "-") and text else text
    digits = _while(text.removeprefix("0x"), 16)
    value = min(int(digits or "-1", 16), ULONG_MAX) & UINT_MAX
    if not digits or value > BYTE_MAX or (negative and value):
        raise UsageError(text)
    return value


def _strtol(text: str) -> int | None:
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") and text else ("", text)
    base = 10
    if digits[:2].lower() == "0x":
        base, digits = 16, digits[2:]
    elif digits.startswith("0") and len(digits) > 1:
        base, digits = 8, digits[1:]
    if not digits or _while(digits, base) != digits:
        return None
    return -int(digits, base) if sign == "-" else int(digits, base)


def _while(text: str, base: int) -> str:
    """Return the digits at the beginning of text."""
    end = 0
    while end < len(text) and text[end].lower() in _DIGITS[:base]:
        end += 1
    return text[:end]
