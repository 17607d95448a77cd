"""What a capture writes to: a capture file, or a row of them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from vethd import __version__
from vethd.control.cli import BadFile
from vethd.control.rings import Capture, CapturedFrame
from vethd.model import pcapng
from vethd.model.capture import DROPPED, FORWARDED, RECEIVED, Record
from vethd.model.complete import completed, segments
from vethd.model.drops import Drop
from vethd.model.errors import symbol
from vethd.model.vnet import F_NEEDS_CSUM, GSO_ECN, GSO_TUNNEL, VnetHdr

_GSO = {1: "TCPv4", 3: "UDP fragments", 4: "TCPv6", 5: "UDP"}
_FLAG_SEGMENTED, _FLAG_NO_CHECKSUM = 1 << 11, 1 << 9
_ERRORS = {int(Drop.OVERSIZE): pcapng.PacketFlags.TOO_LONG, int(Drop.RUNT): pcapng.PacketFlags.TOO_SHORT}


class Sink(ABC):
    """Takes the frames of a capture, and counts them."""

    def __init__(self, running: Capture) -> None:
        """Count from 0."""
        self.running = running
        self.written = self.dropped = 0

    @abstractmethod
    def begin(self, size: int | None, seconds: float | None, files: int | None) -> None:
        """Begin, with the limits of a file's size and time, and the number of files to keep; see FileSink."""

    @abstractmethod
    def write(self, frames: list[CapturedFrame]) -> None:
        """Take frames, in the order of their times."""

    def note_drops(self, frames: list[CapturedFrame]) -> None:
        """Count those that vethd dropped."""
        self.dropped += sum(frame.record.frames for frame in frames if frame.record.kind == DROPPED)

    @abstractmethod
    def finish(self) -> None:
        """Write what is still missing at the end."""

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Finish, unless nobody reads any more."""
        with contextlib.suppress(BrokenPipeError):
            self.finish()


class FileSink(Sink):
    """Writes pcapng to one file, to stdout ("-"), or to files in turn. Raises BadFile with the file's name."""

    def __init__(self, running: Capture, file: str, filter_: str, *, complete: bool, segment: bool) -> None:
        """Prepare; complete: give frames the checksum that they will have; segment: cut super-frames, too."""
        super().__init__(running)
        self._file = file
        self._filter = filter_
        self._complete = complete
        self._segment = segment
        self._out: IO[bytes] | None = None
        self._size = self._number = 0
        self._begun_s = 0.0
        self._made: deque[str] = deque()
        self._limits: tuple[int | None, float | None, int | None] = (None, None, None)

    def begin(self, size: int | None, seconds: float | None, files: int | None) -> None:
        """Open the file; begin a new one after so many bytes or seconds, and keep the newest. Without limits: one."""
        self._limits = (size, seconds, files)
        self._open()

    def write(self, frames: list[CapturedFrame]) -> None:
        """Write one block for each frame."""
        size, seconds, _ = self._limits
        for frame in frames:
            block = b"".join(self._blocks(frame))
            if (size is not None and self._size + len(block) > size) or (
                seconds is not None and time.monotonic() - self._begun_s >= seconds
            ):
                self.finish()
                self._open()
            self._emit(block)
        self._flush()
        self.written += len(frames)
        self.note_drops(frames)

    def finish(self) -> None:
        """End the file with each interface's statistics."""
        if self._out is None:
            return
        out, now_ns = self._out, time.time_ns()
        for number, count in enumerate(self.running.counts()):
            self._emit(
                pcapng.statistics(
                    number,
                    now_ns,
                    received=count.seen,
                    accepted=count.matched,
                    dropped=count.lost,
                    delivered=count.matched - count.lost,
                )
            )
        self._flush()
        self._out = None
        if out is not sys.stdout.buffer:
            out.close()

    def _open(self) -> None:
        size, seconds, files = self._limits
        name = self._file
        if size is not None or seconds is not None:
            path = Path(name)
            self._number += 1
            stamp = datetime.now().astimezone().strftime("%Y%m%dT%H%M%S")
            name = str(path.with_name(f"{path.stem}_{self._number:05}_{stamp}{path.suffix or '.pcapng'}"))
            self._made.append(name)
        try:
            self._out = sys.stdout.buffer if name == "-" else Path(name).open("wb")  # noqa: SIM115 - see finish()
            if files is not None and len(self._made) > files:
                Path(self._made.popleft()).unlink()
        except OSError as error:
            raise BadFile(f"{name}: {os.strerror(error.errno or errno.EIO)}") from error
        self._size, self._begun_s = 0, time.monotonic()
        self._emit(pcapng.section(f"vethctl {__version__}", " ".join(os.uname()[::2])))
        ends = self.running.info.ends
        for end, peer in zip(ends, reversed(ends), strict=True):
            text = f"{end.name} in {end.netns or 'the own namespace of vethd'}, pair {self.running.info.pair}, "
            text += f"peer {peer.name} in {peer.netns or 'the own namespace of vethd'}"
            self._emit(pcapng.interface(end.name, text, self._filter))
        self._flush()

    def _emit(self, block: bytes) -> None:
        assert self._out is not None  # noqa: S101 - between _open() and finish()
        self._size += len(block)
        try:
            self._out.write(block)
        except OSError as error:
            self._failed(error)

    def _flush(self) -> None:
        try:
            if self._out is not None:
                self._out.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        """End with one sentence; what is in the file is whole up to the last block that had room."""
        out, self._out = self._out, None
        if isinstance(error, BrokenPipeError):
            raise error
        if out is not None and stat.S_ISREG(os.fstat(out.fileno()).st_mode):
            with contextlib.suppress(OSError):
                out.close()
        raise BadFile(f"{self._file}: {os.strerror(error.errno or errno.EIO)}") from error

    def _blocks(self, frame: CapturedFrame) -> Iterator[bytes]:
        """Yield a block for the frame, or one for each of its segments."""
        record = frame.record
        header = VnetHdr.parse(record.vnet)
        kind = header.gso_type & ~(GSO_ECN | GSO_TUNNEL)
        whole = len(record.data) == record.length
        flags = pcapng.PacketFlags.INBOUND if record.kind == RECEIVED else pcapng.PacketFlags.OUTBOUND
        comments, parts = [], [record.data]
        if self._segment and whole:
            parts = segments(record.vnet, record.data)
        elif self._complete and whole:
            parts = [completed(record.vnet, record.data)]
        elif header.flags & F_NEEDS_CSUM:
            flags |= _FLAG_NO_CHECKSUM
        if kind and len(parts) == 1:
            flags |= _FLAG_SEGMENTED
            payload = max(0, record.length - header.hdr_len)
            count = -(-payload // header.gso_size) if header.gso_size else 1
            comments.append(f"vethd: GSO {_GSO.get(kind, kind)}, {count} segments of {header.gso_size}")
        if record.kind == DROPPED:
            flags |= _ERRORS.get(record.reason, 0)
            comments.append(why_dropped(record, self.running.info.ends[1 - frame.interface].name))
        for part in parts:
            yield pcapng.packet(
                frame.interface,
                record.time_ns,
                part,
                len(part) if len(parts) > 1 else record.length,
                flags=pcapng.PacketFlags(flags),
                comment="\n".join(comments),
                number=frame.number,
                queue=record.queue,
                verdict=pcapng.VERDICT_DROPPED if record.reason != FORWARDED else b"",
            )


def why_dropped(record: Record, receiver: str) -> str:
    """Return the comment of a dropped frame: "vethd: dropped: oversize: 1642 bytes, vb takes 1518"."""
    text = f"vethd: dropped: {Drop(record.reason).label}"
    if record.error:
        text += f" ({symbol(record.error)}, when it was written)"
    if record.reason == Drop.OVERSIZE:
        text += f": {record.length} bytes, {receiver} takes {record.limit}"
    return text
