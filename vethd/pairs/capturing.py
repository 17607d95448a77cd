"""A capture of one pair: its rings in shared memory, and the engine's taps that write to them.

The memory is the daemon's own memfd. It is allocated before the first frame and sealed, so that neither a lack of
memory nor the client can make it smaller than what the engine writes to.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable

from vethd.datapath.engine import TapSpec
from vethd.model.capture import DROPPED, HEADER, RECEIVED, ROOM_MAX, ROOM_MIN, SENT
from vethd.model.cbpf import Instruction, check
from vethd.model.errors import VethError
from vethd.model.insight import CaptureEnd, CaptureInfo, CaptureRing, CaptureSpec
from vethd.model.state import Side
from vethd.pairs.pair import LivePair

_INSTRUCTION = struct.Struct("=HBBI")
_KINDS = {"also": SENT | DROPPED, "only": DROPPED, "no": SENT}


class Plan:
    """The rings that a capture needs; checks the request."""

    def __init__(self, pair: LivePair, spec: CaptureSpec) -> None:
        """Check the request, and choose the size of the rings. Raises VethError EINVAL for a bad filter."""
        program = [Instruction(*fields) for fields in spec.filter]
        if program:
            check(program)
        self.pair = pair
        self.program = b"".join(_INSTRUCTION.pack(*one) for one in program)
        self.snaplen = spec.snaplen
        self.kinds = _KINDS[spec.drops] | (RECEIVED if spec.ends == "both" else 0)
        self.rings = [(side, queue) for side in Side for queue in range(len(pair.links[side].tap.fds))]
        each = spec.buffer // len(self.rings)
        self.room = min(max(1 << each.bit_length() >> 1, ROOM_MIN), ROOM_MAX)

    @property
    def size(self) -> int:
        """The bytes of shared memory that it takes."""
        return len(self.rings) * (HEADER + self.room)


def allocate(size: int) -> int:
    """Return a memfd of size bytes, all of them present, which nobody can shrink. For a worker thread: it takes time.

    Raises VethError ENOMEM.
    """
    fd = os.memfd_create("vethd-capture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(fd, 0, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError as error:
        os.close(fd)
        raise VethError(errno.ENOMEM, "capture", reason=f"no memory for a buffer of {size} bytes") from error
    return fd


class Capture:
    """A running capture. ended is done when the pair has stopped forwarding; then call close()."""

    def __init__(self, plan: Plan, memory_fd: int) -> None:
        """Begin; takes memory_fd over. Raises VethError ENODEV if the pair is gone, OSError."""
        self._pair = plan.pair
        self._memory_fd, self._event_fd = memory_fd, -1
        self._views: list[memoryview] = []
        self._stops: list[Callable[[], None]] = []
        self._memory: mmap.mmap | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._memory = mmap.mmap(memory_fd, plan.size)
            self._begin(plan, self._memory)
        except BaseException:
            self.close()
            raise
        plan.pair.stopped.add(self.end)
        self.info = CaptureInfo(
            pair=plan.pair.id,
            room=plan.room,
            rings=[CaptureRing(side=int(side), queue=queue) for side, queue in plan.rings],
            ends=[CaptureEnd(name=link.state.name, netns=link.label) for link in plan.pair.links],
        )

    @property
    def fds(self) -> tuple[int, int]:
        """The memfd and the eventfd."""
        return self._memory_fd, self._event_fd

    def end(self) -> None:
        """Note that the pair does not forward any more."""
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        """Stop copying frames and release the memory; the client's mapping of it stays. Idempotent."""
        self._pair.stopped.discard(self.end)
        for stop in self._stops:
            stop()
        self._stops.clear()
        for view in self._views:
            view.release()
        self._views.clear()
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        for fd in (self._memory_fd, self._event_fd):
            if fd >= 0:
                os.close(fd)
        self._memory_fd = self._event_fd = -1

    def _begin(self, plan: Plan, memory: mmap.mmap) -> None:
        wire = plan.pair.forwarding
        if wire is None:
            raise VethError(errno.ENODEV, "capture", plan.pair.id, "the pair is being deleted")
        spec = TapSpec(plan.program, plan.snaplen, plan.kinds, self._event_fd)
        stride = HEADER + plan.room
        with memoryview(memory) as whole:
            self._views = [whole[number * stride : (number + 1) * stride] for number in range(len(plan.rings))]
        for side in Side:
            views = [view for view, (of, _) in zip(self._views, plan.rings, strict=True) if of == side]
            self._stops.append(wire.capture(side, views, spec))
