"""The supervisor's child processes: each does one job for one trapped call, answers the call, and ends."""

from __future__ import annotations

import posix
import select
import zlib
from collections.abc import Callable

from vethd.clients.run.caller import Caller
from vethd.clients.run.listener import Call, Listener
from vethd.clients.run.table import Table

Job = Callable[[], "int | None"]
"""Returns the call's result, -errno for an error, or None to let the kernel carry the call out as it is."""


class Children:
    """Starts them, and buries them; a call whose child died goes on."""

    def __init__(self, listener: Listener, table: Table, log: Callable[[str], None], poller: select.epoll) -> None:
        """Have the poller report the descriptor of a child that has ended, for bury()."""
        self._listener = listener
        self._table = table
        self._log = log
        self._poller = poller
        self._living: dict[int, tuple[int, int, int]] = {}  # pidfd -> pid, the caller's process, its new descriptor

    def answer(self, call_id: int, result: int | None) -> bool:
        """Answer a call with what a job returned; return whether it still waited."""
        return self._listener.go_on(call_id) if result is None else self._listener.answer(call_id, result)

    def start(self, call: Call, caller: Caller, job: Job, number: int = -1, message: bytes = b"") -> None:
        """Have a child do a job and answer the call.

        number is the descriptor that the caller will get. message is what the call sends: if a signal interrupts the
        call and it is made again, the job is not done again.
        """
        key = call.thread << 32 | zlib.crc32(message) if message else 0
        if key:
            repeated, answer = self._table.repeated(call.id, key)
            if repeated:
                if answer is not None:
                    self.answer(call.id, answer)
                return
        slot = self._table.begin(call.id, key)
        process = caller.pid
        try:
            pid = posix.fork()
        except OSError:
            self._table.free(slot)
            raise
        if pid == 0:
            self._work(call, job, slot)
        fd = posix.pidfd_open(pid)
        self._living[fd] = (pid, process, number)
        self._poller.register(fd, select.EPOLLIN)

    def pending(self, caller: Caller) -> set[int]:
        """Return the numbers of the descriptors that children are about to give to a caller's process."""
        given = [(process, number) for _, process, number in self._living.values() if number >= 0]
        return {number for process, number in given if process == caller.pid} if given else set()

    def bury(self, fd: int) -> None:
        """Take note of a child's end."""
        self._poller.unregister(fd)
        pid, _, _ = self._living.pop(fd)
        posix.close(fd)
        posix.waitpid(pid, 0)
        waiting = self._table.bury(pid)
        if waiting:
            self._log(f"a process of the supervisor died; the kernel carries out call {waiting:#x}")
            self._listener.go_on(waiting)

    def _work(self, call: Call, job: Job, slot: int) -> None:
        """Do a job in a child, answer, and end."""
        try:
            if slot >= 0:
                self._table.take(slot, posix.getpid())
            try:
                result = job()
            except OSError as error:
                self._log(f"{call.name} of {call.thread}: {error}")
                result = None
            waiting = self._table.call(slot) if slot >= 0 else call.id
            if not self.answer(waiting, result) and slot >= 0 and result is not None:
                self._table.keep(slot, result)
            else:
                self._table.free(slot)
        except BaseException as error:  # noqa: BLE001 - the caller must not wait for ever
            self._log(f"{call.name} of {call.thread}: {error!r}")
            self._listener.go_on(call.id)
        finally:
            posix._exit(0)  # noqa: SLF001 - its public name is in os, whose import takes 4 ms
