"""A capture as the client sees it: frames from shared memory, in the order of their times."""

from __future__ import annotations

import mmap
import os
import select
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from vethd.model.capture import HEADER, RECEIVED, Counts, Reader, Record
from vethd.model.insight import CaptureInfo

HOLD_NS = 5_000_000
"""How long a frame is held back: another ring may yet publish one that is older."""


class CapturedFrame(NamedTuple):
    """A frame: the number of the interface where it was seen (0 is the near end), and its record.

    number identifies the frame in the capture; a record of kind RECEIVED has that of the first frame that was sent.
    """

    interface: int
    number: int
    record: Record


class Capture:
    """A running capture: call take() again and again, wait() in between, and close() at the end.

    While nobody calls take(), frames that have no room in the rings are counted as lost, and nothing waits.
    """

    def __init__(self, info: CaptureInfo, fds: Sequence[int], sock: socket.socket) -> None:
        """Take over the memfd, the eventfd, and the connection whose end is the capture's end."""
        self.info = info
        self.ended = False
        self._sock = sock
        self._event_fd = fds[1]
        self._memory = mmap.mmap(fds[0], 0)
        os.close(fds[0])
        stride = HEADER + info.room
        with memoryview(self._memory) as whole:
            self._views = [whole[number * stride : (number + 1) * stride] for number in range(len(info.rings))]
        self._readers = [Reader(view) for view in self._views]
        self._held: list[CapturedFrame] = []
        self._poll = select.poll()
        self._poll.register(self._event_fd, select.POLLIN)
        self._poll.register(sock, select.POLLIN)

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()

    def take(self, *, last: bool = False) -> list[CapturedFrame]:
        """Return the frames that have come, the oldest first; last returns those that are held back as well."""
        before_ns = time.time_ns() - HOLD_NS
        for ring, reader in zip(self.info.rings, self._readers, strict=True):
            for record in reader.take():
                interface = 1 - ring.side if record.kind == RECEIVED else ring.side
                number = ring.side << 56 | ring.queue << 48 | record.number
                self._held.append(CapturedFrame(interface, number, record))
        self._held.sort(key=_time)
        count = len(self._held)
        if not last:
            while count and self._held[count - 1].record.time_ns > before_ns:
                count -= 1
        frames, self._held = self._held[:count], self._held[count:]
        return frames

    def wait(self, timeout_s: float) -> None:
        """Sleep until there are frames, at most timeout_s; sets ended if the daemon has ended the capture."""
        if self._held:
            timeout_s = min(timeout_s, HOLD_NS / 1e9)
        for reader in self._readers:
            reader.sleep(sleeping=True)
        if all(reader.empty() for reader in self._readers):
            for fd, _ in self._poll.poll(timeout_s * 1000):
                if fd == self._event_fd:
                    os.read(fd, 8)
                else:
                    self.ended = True
        for reader in self._readers:
            reader.sleep(sleeping=False)

    def counts(self) -> list[Counts]:
        """Return the frames seen, accepted and lost at each end, the near one first: those that it sent."""
        found = [Counts(0, 0, 0), Counts(0, 0, 0)]
        for ring, reader in zip(self.info.rings, self._readers, strict=True):
            found[ring.side] = Counts(*(a + b for a, b in zip(found[ring.side], reader.counts(), strict=True)))
        return found

    def close(self) -> None:
        """End the capture. Idempotent."""
        if self._sock.fileno() < 0:
            return
        self._sock.close()
        os.close(self._event_fd)
        self._readers.clear()
        for view in self._views:
            view.release()
        self._memory.close()


def _time(frame: CapturedFrame) -> int:
    return frame.record.time_ns
