"""A capture's ring in shared memory: its layout, and how to read it.

A ring has one writer, the engine, and one reader, the client. It begins with a page that has the positions and
counters, in the machine's byte order; then come `room` bytes of records, a power of 2. head and tail count the bytes
that were written and read, and never decrease. A record does not wrap around the end: a record of kind PAD fills the
rest. The writer never waits: it counts what does not fit (lost). The native engine has the same layout in _capture.pxd.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = 4096
"""Bytes of a ring before its records."""

PAD, SENT, DROPPED, RECEIVED = 0, 1, 2, 4
"""Kinds of records: a frame as it was read from the sender, one that was dropped, one as it was written."""

FORWARDED = 255
"""The reason of a record that is not of kind DROPPED."""

VNET_KEPT = 12
"""Bytes of the virtio_net_hdr in a record."""

POSITIONS = struct.Struct("=QQQQQI")  # head, tail, seen, matched, lost, sleeping
TAIL_AT, SLEEPING_AT = 8, 40
RECORD = struct.Struct("=IBBBxqQIIIiI4xQ12s4x")

ROOM_MIN, ROOM_MAX = 256 << 10, 128 << 20
"""Bytes of a ring: one with less than 256 KiB has no room for a few super-frames."""


class Record(NamedTuple):
    """One frame.

    kind and reason: see above and model.drops.Drop. queue is the sender's. time_ns is in nanoseconds since the epoch.
    number counts the frames that the queue's sender sent. length, limit: as in DroppedFrame. error is the errno of a
    failed write. frames were coalesced to this one, if it was written; number is the first one's. lost is the number of
    frames before this one that the ring had no room for. vnet is the virtio_net_hdr, data the frame's first bytes.
    """

    kind: int
    reason: int
    queue: int
    time_ns: int
    number: int
    length: int
    limit: int
    error: int
    frames: int
    lost: int
    vnet: bytes
    data: bytes


class Counts(NamedTuple):
    """What a ring has counted: frames of the wanted kinds, those that the filter accepted, those without room."""

    seen: int
    matched: int
    lost: int


def padded(length: int) -> int:
    """Return length rounded up to a multiple of 8."""
    return (length + 7) & ~7


class Reader:
    """The reader's side of one ring."""

    def __init__(self, ring: memoryview) -> None:
        """Read from that memory: HEADER bytes, then the records."""
        self._ring = ring
        self._room = len(ring) - HEADER

    def counts(self) -> Counts:
        """Return the counters up to the last published record."""
        return Counts(*POSITIONS.unpack_from(self._ring)[2:5])

    def sleep(self, *, sleeping: bool) -> None:
        """Ask to be woken when a record is published, once; or take that back."""
        struct.pack_into("=I", self._ring, SLEEPING_AT, sleeping)

    def empty(self) -> bool:
        """Return whether no record waits."""
        head, tail = POSITIONS.unpack_from(self._ring)[:2]
        return bool(head == tail)

    def take(self, most: int = 1024) -> list[Record]:
        """Return the next records, at most `most`, and give their room back."""
        head, tail = POSITIONS.unpack_from(self._ring)[:2]
        records: list[Record] = []
        while tail != head and len(records) < most:
            at = HEADER + tail % self._room
            size, kind = struct.unpack_from("=IB", self._ring, at)
            if kind != PAD:
                records.append(self._record(at))
            tail += size
        struct.pack_into("=Q", self._ring, TAIL_AT, tail)
        return records

    def _record(self, at: int) -> Record:
        fields = RECORD.unpack_from(self._ring, at)
        _, kind, reason, queue, time_ns, number, caplen, length, limit, error, frames, lost, vnet = fields
        start = at + RECORD.size
        data = bytes(self._ring[start : start + caplen])
        return Record(kind, reason, queue, time_ns, number, length, limit, error, frames, lost, vnet, data)
