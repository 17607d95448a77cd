"""What the supervisor's processes have in hand, in memory that they share: it survives the death of any of them.

Theory of operation. A slot holds a trapped call while a child process works on it. If that process dies, the keeper or
the worker lets the call go on, so that its caller does not wait for ever. The worker itself receives its calls into the
shared memory, so that the keeper sees which one it had in hand when it died, at whatever moment that was.

A slot also remembers an answer that did not arrive. Without SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19), a
signal interrupts the caller's call, and SA_RESTART makes it once more: the same request must not be carried out twice.
The repeated call, known by its thread and its message, waits in the slot for the first one's answer, or takes it.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from typing import NamedTuple

from vethd.clients.run.listener import NOTIF_SIZE

_SLOT = struct.Struct("=QQQqI")
_SIZE, _IN_HAND = 64, NOTIF_SIZE
SLOTS = 512
_FREE, _BUSY, _UNDELIVERED = range(3)


class _Slot(NamedTuple):
    """process works on call; key tells its repetition; answer is the call's result."""

    process: int = 0
    call: int = 0
    key: int = 0
    answer: int = 0
    state: int = _FREE


class Table:
    """The slots, and the memory into which the worker receives."""

    def __init__(self) -> None:
        """Allocate the memory; processes forked later share it."""
        self._memory = mmap.mmap(-1, SLOTS * _SIZE + _IN_HAND)
        self.in_hand = (ctypes.c_char * _IN_HAND).from_buffer(self._memory, SLOTS * _SIZE)

    def _get(self, number: int) -> _Slot:
        return _Slot(*_SLOT.unpack_from(self._memory, number * _SIZE))

    def _put(self, number: int, slot: _Slot) -> None:
        _SLOT.pack_into(self._memory, number * _SIZE, *slot)

    def done(self) -> None:
        """Note that the worker has no call in hand."""
        ctypes.memset(self.in_hand, 0, _IN_HAND)

    def left(self) -> int:
        """Return the call that a dead worker had in hand and no child has taken over; 0 if there is none."""
        (call,) = struct.unpack_from("=Q", self.in_hand)
        taken = any(slot.call == call and slot.process for slot in map(self._get, range(SLOTS)) if slot.state != _FREE)
        return 0 if taken else int(call)

    def begin(self, call: int, key: int) -> int:
        """Take a slot for a call, and return its number; -1 if all are taken."""
        for state in (_FREE, _UNDELIVERED):  # the latter: an answer that nobody asked for again
            for number in range(SLOTS):
                if self._get(number).state == state:
                    self._put(number, _Slot(call=call, key=key, state=_BUSY))
                    return number
        return -1

    def take(self, number: int, process: int) -> None:
        """Note the process that works on a slot's call."""
        self._put(number, self._get(number)._replace(process=process))

    def call(self, number: int) -> int:
        """Return the call that waits for a slot's answer."""
        return self._get(number).call

    def free(self, number: int) -> None:
        """Give a slot back; -1 is none."""
        if number >= 0:
            self._put(number, _Slot())

    def keep(self, number: int, answer: int) -> None:
        """Keep an answer for the call's repetition."""
        self._put(number, self._get(number)._replace(answer=answer, state=_UNDELIVERED))

    def repeated(self, call: int, key: int) -> tuple[bool, int | None]:
        """Return whether a call repeats one that is in a slot, and its answer; without an answer it waits for it."""
        for number in range(SLOTS):
            slot = self._get(number)
            if slot.state == _FREE or slot.key != key:
                continue
            if slot.state == _UNDELIVERED:
                self.free(number)
                return True, slot.answer
            self._put(number, slot._replace(call=call))
            return True, None
        return False, None

    def bury(self, process: int) -> int:
        """Free the slot of a process that died, and return the call that it left waiting; 0 if there is none."""
        for number in range(SLOTS):
            slot = self._get(number)
            if slot.process == process and slot.state == _BUSY:
                self.free(number)
                return slot.call
        return 0
