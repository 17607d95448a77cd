"""Captures in the asyncio engine: the writer of one ring. See model.capture for its layout, and _capture.pxd.

The filter runs in Python, about a microsecond for each instruction.
"""

from __future__ import annotations

import os
import struct
import time

from vethd.datapath.engine import TapSpec
from vethd.model.capture import FORWARDED, HEADER, PAD, RECORD, SLEEPING_AT, TAIL_AT, padded
from vethd.model.cbpf import Instruction, run

_COUNTERS = struct.Struct("=QQQ")  # seen, matched, lost
_INSTRUCTION = struct.Struct("=HBBI")


class Tap:
    """One queue's frames for one capture."""

    def __init__(self, ring: memoryview, queue: int, spec: TapSpec) -> None:
        """Write to that ring from now on."""
        self.kinds = spec.kinds
        self._ring = ring
        self._room = len(ring) - HEADER
        self._queue = queue
        self._spec = spec
        self._program = [Instruction(*fields) for fields in _INSTRUCTION.iter_unpack(spec.program)]
        self._head = self._published = 0
        self._seen = self._matched = self._lost = 0
        self._read = self._first = 0  # frames read, and those before this batch

    def begin(self) -> None:
        """Begin a batch."""
        self._first = self._read

    def note(  # noqa: PLR0913, PLR0917 - the fields of a record
        self,
        kind: int,
        data: bytes | bytearray | memoryview,
        length: int,
        vnet_hdr_len: int,
        limit: int,
        reason: int = FORWARDED,
        error: int = 0,
        frames: int = 1,
        number: int | None = None,
    ) -> None:
        """Offer one frame: data with the virtio_net_hdr, of which length bytes count.

        number is None for a frame as it was read, else the number in the batch of the written one.
        """
        if number is None:
            number = self._read - self._first
            self._read += 1
        if not self.kinds & kind:
            return
        self._seen += 1
        frame = bytes(data[vnet_hdr_len:length]) if length > vnet_hdr_len else b""
        if self._program and not run(self._program, frame):
            return
        self._matched += 1
        kept = frame[: self._spec.snaplen]
        size = RECORD.size + padded(len(kept))
        at = self._reserve(size)
        if at is None:
            self._lost += 1
            return
        vnet = bytes(data[: min(length, vnet_hdr_len)])
        fields = (
            size,
            kind,
            reason,
            self._queue,
            time.time_ns(),
            1 + self._first + number,
            len(kept),
            len(frame),
            limit,
            error,
        )
        RECORD.pack_into(self._ring, at, *fields, frames, self._lost, vnet)
        self._ring[at + RECORD.size : at + RECORD.size + len(kept)] = kept

    def publish(self) -> None:
        """Show the reader what was written, and wake it if it sleeps."""
        _COUNTERS.pack_into(self._ring, 16, self._seen, self._matched, self._lost)
        struct.pack_into("=Q", self._ring, 0, self._head)
        if self._head == self._published:
            return
        self._published = self._head
        if struct.unpack_from("=I", self._ring, SLEEPING_AT)[0]:
            struct.pack_into("=I", self._ring, SLEEPING_AT, 0)
            os.eventfd_write(self._spec.event_fd, 1)

    def _reserve(self, size: int) -> int | None:
        """Return the place of a record of size bytes, None if there is no room."""
        (tail,) = struct.unpack_from("=Q", self._ring, TAIL_AT)
        at = self._head % self._room
        pad = self._room - at if at + size > self._room else 0
        used = self._head - tail
        if not 0 <= used <= self._room or used + pad + size > self._room:
            return None
        if pad:
            struct.pack_into("=IB", self._ring, HEADER + at, pad, PAD)
            self._head += pad
            at = 0
        self._head += size
        return HEADER + at
