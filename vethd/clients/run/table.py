"""What the supervisor's processes have in hand, in memory that they share: it survives the death of any of them.

Theory of operation. A slot holds a trapped call while a process works on it. If that process dies, the keeper or the
worker lets the call go on, so that its caller does not wait for ever.

A slot also remembers an answer that did not arrive. Without SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (Linux 5.19), a
signal interrupts the caller's call, and SA_RESTART makes it once more: the same request must not be carried out twice.
The repeated call, known by its thread and its message, waits in the slot for the first one's answer, or takes it.
"""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

_SLOT = struct.Struct("=QQQqI")
_SIZE = 64
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
    """The slots. Slot 0 is the worker's own."""

    def __init__(self) -> None:
        """Allocate the memory; processes forked later share it."""
        self._memory = mmap.mmap(-1, SLOTS * _SIZE)

    def _get(self, number: int) -> _Slot:
        return _Slot(*_SLOT.unpack_from(self._memory, number * _SIZE))

    def _put(self, number: int, slot: _Slot) -> None:
        _SLOT.pack_into(self._memory, number * _SIZE, *slot)

    def hold(self, call: int) -> None:
        """Note the call that the worker has in hand, 0 for none."""
        self._put(0, _Slot(call=call))

    def held(self) -> int:
        """Return the call that the worker had in hand, 0 for none."""
        return self._get(0).call

    def begin(self, call: int, key: int) -> int:
        """Take a slot for a call, and return its number; -1 if all are taken."""
        for state in (_FREE, _UNDELIVERED):  # the latter: an answer that nobody asked for again
            for number in range(1, SLOTS):
                if self._get(number).state == state:
                    self._put(number, _Slot(call=call, key=key, state=_BUSY))
                    return number
        return -1

    def belongs(self, number: int, process: int) -> None:
        """Note the process that works on a slot's call."""
        slot = self._get(number)
        if slot.state == _BUSY:
            self._put(number, slot._replace(process=process))

    def call(self, number: int) -> int:
        """Return the call that waits for a slot's answer."""
        return self._get(number).call

    def free(self, number: int) -> None:
        """Give a slot back."""
        self._put(number, _Slot())

    def keep(self, number: int, answer: int) -> None:
        """Keep an answer for the call's repetition."""
        self._put(number, self._get(number)._replace(answer=answer, state=_UNDELIVERED))

    def repeated(self, call: int, key: int) -> tuple[bool, int | None]:
        """Return whether a call repeats one that is in a slot, and its answer; without an answer it waits for it."""
        for number in range(1, SLOTS):
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
        for number in range(1, SLOTS):
            slot = self._get(number)
            if slot.process == process and slot.state == _BUSY:
                self.free(number)
                return slot.call
        return 0
