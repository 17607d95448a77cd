"""How tests/lib/shown.py tells values: attributes of netlink, errors."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import ParamSpec

from tests.lib.rtnl import NLA_F_NESTED

Shown = dict[str, str]
P = ParamSpec("P")


def told(ask: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str:
    """Return what ask gives, or the name of the errno that it raises."""
    try:
        return str(ask(*args, **kwargs))
    except OSError as error:
        return name_of(error)


def name_of(error: OSError) -> str:
    """Return an errno's name; the kernel has some that C has none for."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def leaves(data: bytes, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the attributes of a message by their numbers, those of nested ones by a path of numbers."""
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        name, payload = f"{path}{kind & ~NLA_F_NESTED}", data[4:size]
        if kind & NLA_F_NESTED:
            yield from leaves(payload, f"{name}.")
        else:
            yield name, value(payload)
        data = data[(size + 3) & ~3 :]


def value(payload: bytes) -> str:
    """Return a text as one, a number as one, anything else in hexadecimal without the zeros at its end."""
    word = payload.rstrip(b"\0")
    if word.isascii() and word.decode().isprintable() and len(word) == len(payload) - 1:
        return word.decode()
    if len(payload) in (1, 2, 4, 8):
        return str(int.from_bytes(payload, "little"))
    return word.hex()
