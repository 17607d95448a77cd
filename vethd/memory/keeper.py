"""Outlive the process: the TAPs' fds are held by somebody else, and a record says which is which.

A device lives as long as anybody holds one of its fds. Where there is a Keeper (systemd's fd store), every fd is
handed to it at creation and taken back at deletion, and with them go two small memfds that hold the Record, written by
turns. The next daemon gets all of them, and goes on forwarding: see Manager.adopt().
"""

from __future__ import annotations

import errno
import os
import stat
import string
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Protocol

import msgspec

from vethd.kernel.births import Nursery
from vethd.kernel.tun import Tap
from vethd.memory.takeover import COPIES, HeldPair, read_record
from vethd.model.errors import VethError
from vethd.model.record import EngineRecord, PairRecord, encode, encode_pair

_DIGITS = string.digits + string.ascii_lowercase
KEPT_MAX = 16_000
"""FileDescriptorStoreMax= of the unit, but for a few. All their names, of 7 bytes and a colon at most for 2**31 births,
come back in one string of the environment: 128 KiB at most (MAX_ARG_STRLEN)."""


def fd_name(number: int) -> str:
    """Name the number-th fd that is kept: short, as all names travel in one string. Version 1 began them with "t"."""
    digits = ""
    while number:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return f"u{digits}"


class Keeper(Protocol):
    """Somebody who holds fds for us while we are not there. Never blocks for long.

    fd_store: whether there is such a somebody at all.
    """

    fd_store: bool

    def keep(self, name: str, fd: int) -> None:
        """Hold a duplicate of fd under that name. Raises OSError where it cannot be told to."""

    def forget(self, name: str) -> None:
        """Let go of what was kept under that name."""


class Memory:
    """What is kept of one manager. Not for two threads at once; write() is the loop's."""

    def __init__(self, keeper: Keeper, inherited: Mapping[str, int], held: dict[str, HeldPair] | None = None) -> None:
        """Read what a predecessor left; inherited holds its fds by name, and is ours from now on.

        held are its pairs whose frames are forwarded already, and ours too: adoption takes them out, and the record, so
        that neither is kept for life. complaints is what of it cannot be read, in words.
        """
        self._keeper = keeper
        self._inherited = dict(inherited)
        self.held = {} if held is None else held
        self.record, self.complaints = read_record(self._inherited)
        self._copies: list[int] = []
        for name in COPIES:
            fd = self._inherited.get(name, -1)
            if fd < 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
                fd = os.memfd_create(f"vethd-{name}", os.MFD_CLOEXEC)
                if name in self._inherited:  # and is no memfd
                    keeper.forget(name)
                keeper.keep(name, fd)
            else:
                del self._inherited[name]
            self._copies.append(fd)
        self._kept: set[str] = set()
        self._seq = self.record.seq if self.record else 0
        self._last_fd = self.record.last_fd if self.record else 0
        self._last_id = 0
        self.lost = self.orphans = 0  # pairs and fds of the predecessor's that nobody could take over
        self._engine: EngineRecord | None = None
        self._pairs: dict[str, msgspec.Raw] = {}
        self.latest = b""  # the record as it was written last

    @property
    def kept_elsewhere(self) -> bool:
        """Whether what is kept outlives this process."""
        return self._keeper.fd_store

    @property
    def inherited(self) -> Mapping[str, int]:
        """The inherited fds that nobody has taken yet, by name."""
        return self._inherited

    def keep(self, fds: tuple[int, ...]) -> list[str]:
        """Have fds kept, all of them or none; give the names under which they are.

        Raises VethError: what is not kept would be gone after the next restart, and nobody would have been told.
        """
        if len(self._kept) + len(fds) > KEPT_MAX:
            reason = f"no more than {KEPT_MAX} file descriptors can be kept over a restart"
            raise VethError(errno.ENOSPC, "newlink", reason=reason)
        names: list[str] = []
        try:
            for fd in fds:
                self._last_fd += 1
                names.append(fd_name(self._last_fd))
                self._keeper.keep(names[-1], fd)
        except OSError as error:
            self.forget(names)
            reason = f"what keeps it over a restart cannot be told: {error.strerror or error}"
            raise VethError(error.errno or errno.EAGAIN, "newlink", reason=reason) from error
        self._kept.update(names)
        return names

    def forget(self, names: list[str]) -> None:
        """Have fds kept no longer."""
        for name in names:
            self._keeper.forget(name)
        self._kept.difference_update(names)

    def take(self, names: list[str]) -> tuple[int, ...]:
        """Give the inherited fds of those names, the caller's from now on. Raises KeyError where one is missing."""
        found = {name: self._inherited[name] for name in names}
        for name in names:
            del self._inherited[name]
        self._kept.update(names)
        return tuple(found.values())

    def drop_rest(self, nursery: Nursery) -> int:
        """Delete the devices that were inherited and not taken: nobody knows what they were. Gives how many fds.

        For a worker thread. Closing alone would leave them until the keeper lets go, in the way of their successors.
        """
        rest, self._inherited = self._inherited, {}
        for name, fd in rest.items():
            with suppress(VethError):
                nursery.delete(Tap.adopt((fd,)))
            os.close(fd)
            if name not in COPIES:  # there the name is our own memfd's by now
                self._keeper.forget(name)
        return len(rest)

    def knows(self, pair_id: str) -> bool:
        """Tell whether a pair is in the latest record."""
        return pair_id in self._pairs

    def put(self, pairs: Iterable[PairRecord], last_id: int, engine: EngineRecord) -> None:
        """Write these pairs down, over what was known of them; last_id is the last number given to any."""
        self._last_id, self._engine = last_id, engine
        self._pairs |= {pair.id: encode_pair(pair) for pair in pairs}
        self._write()

    def remove(self, pair_id: str) -> None:
        """Know no more of a pair."""
        if self._pairs.pop(pair_id, None) is not None:
            self._write()

    def _write(self) -> None:
        """Write over the older copy."""
        self._seq += 1
        data = encode(self._seq, self._last_id, self._last_fd, self._pairs.values(), self._engine)
        self.latest = data
        fd = self._copies[self._seq % len(self._copies)]
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))

    def close(self) -> None:
        """Close our own fds; what is kept stays kept."""
        for fd in self._copies:
            os.close(fd)
        for fd in self._inherited.values():
            os.close(fd)
