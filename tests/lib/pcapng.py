"""A reader of pcapng files, which follows the format's draft and checks what it reads."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
HEAD = {SECTION: 16, INTERFACE: 8, STATISTICS: 12}


class Block(NamedTuple):
    kind: int
    head: bytes
    data: bytes
    options: dict[int, bytes]


def blocks(file: bytes) -> Iterator[Block]:
    """Read a file; every length is checked at both ends of its block."""
    while file:
        kind, length = struct.unpack_from("=II", file)
        assert length % 4 == 0
        assert struct.unpack_from("=I", file, length - 4) == (length,)
        body, file = file[8 : length - 4], file[length:]
        size = 0
        if kind == PACKET:
            size = struct.unpack_from("=I", body, 12)[0]
        start = HEAD.get(kind, 20)
        data, rest = body[start : start + size], body[start + (size + 3) // 4 * 4 :]
        options = {}
        while True:
            code, length = struct.unpack_from("=HH", rest)
            if code == 0:
                assert rest == bytes(4)
                break
            options[code] = rest[4 : 4 + length]
            rest = rest[4 + (length + 3) // 4 * 4 :]
        yield Block(kind, body[:start], data, options)


class Packet(NamedTuple):
    """One packet of a file."""

    interface: int
    time_ns: int
    length: int
    data: bytes
    flags: int
    comment: str
    number: int
    dropped: bool


def packets(file: bytes) -> list[Packet]:
    """Return the packets of a file, which must begin with a section and two interfaces."""
    section, near, far, *rest = blocks(file)
    assert [block.kind for block in (section, near, far)] == [SECTION, INTERFACE, INTERFACE]
    found = []
    for block in rest:
        if block.kind == PACKET:
            interface, high, low, _, length = struct.unpack("=IIIII", block.head)
            flags = struct.unpack("=I", block.options[2])[0]
            number = struct.unpack("=Q", block.options[5])[0]
            comment = block.options.get(1, b"").decode()
            time_ns = (high << 32) + low
            found.append(Packet(interface, time_ns, length, block.data, flags, comment, number, 7 in block.options))
    return found


def received(file: bytes) -> list[tuple[int, ...]]:
    """Return the statistics at a file's end, per interface: seen, accepted, not kept, in the file."""
    return [
        tuple(struct.unpack("=Q", block.options[code])[0] for code in (4, 6, 7, 8))
        for block in blocks(file)
        if block.kind == STATISTICS
    ]
