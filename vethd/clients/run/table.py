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

_SLOT = struct.Struct("=QQQqI")  # process, call, key, answer, state
_SIZE = 64
SLOTS = 512
_FREE, _BUSY, _UNDELIVERED = range(3)


class Table:
    """The slots. Slot 0 is the worker's own."""

    def __init__(self) -> None:
        """Allocate the memory; processes forked later share it."""
        self._memory = mmap.mmap(-1, SLOTS * _SIZE)

    def _get(self, slot: int) -> tuple[int, int, int, int, int]:
        process, call, key, answer, state = _SLOT.unpack_from(self._memory, slot * _SIZE)
        return process, call, key, answer, state

    def _put(self, slot: int, process: int, call: int, key: int, answer: int = 0, state: int = _BUSY) -> None:
        _SLOT.pack_into(self._memory, slot * _SIZE, process, call, key, answer, state)

    def hold(self, call: int) -> None:
        """Note the call that the worker has in hand, 0 for none."""
        self._put(0, 0, call, 0)

    def held(self) -> int:
        """Return the call that the worker had in hand, 0 for none."""
        return self._get(0)[1]

    def begin(self, call: int, key: int) -> int:
        """Take a free slot for a call, and return its number; -1 if all are taken."""
        for slot in range(1, SLOTS):
            if self._get(slot)[4] == _FREE:
                self._put(slot, 0, call, key)
                return slot
        for slot in range(1, SLOTS):  # an answer that nobody asked for again
            if self._get(slot)[4] == _UNDELIVERED:
                self._put(slot, 0, call, key)
                return slot
        return -1

    def belongs(self, slot: int, process: int) -> None:
        """Note the process that works on a slot's call."""
        _, call, key, answer, state = self._get(slot)
        if state == _BUSY:
            self._put(slot, process, call, key, answer, state)

    def call(self, slot: int) -> int:
        """Return the call that waits for a slot's answer."""
        return self._get(slot)[1]

    def free(self, slot: int) -> None:
        """Give a slot back."""
        self._put(slot, 0, 0, 0, 0, _FREE)

    def keep(self, slot: int, answer: int) -> None:
        """Keep an answer for the call's repetition."""
        process, call, key, _, _ = self._get(slot)
        self._put(slot, process, call, key, answer, _UNDELIVERED)

    def repeated(self, call: int, key: int) -> tuple[bool, int | None]:
        """Return whether a call repeats one that is in a slot, and its answer; without an answer it waits for it."""
        for slot in range(1, SLOTS):
            process, _, its_key, answer, state = self._get(slot)
            if state == _FREE or its_key != key:
                continue
            if state == _UNDELIVERED:
                self.free(slot)
                return True, answer
            self._put(slot, process, call, key, answer, state)
            return True, None
        return False, None

    def bury(self, process: int) -> int:
        """Free the slot of a process that died, and return the call that it left waiting; 0 if there is none."""
        for slot in range(1, SLOTS):
            owner, call, _, _, state = self._get(slot)
            if owner == process and state == _BUSY:
                self.free(slot)
                return call
        return 0
