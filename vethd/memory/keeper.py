"""Keep the TAPs' fds open in another process, with a record that maps them to pairs, so that they outlive the daemon.

A device exists as long as any process holds one of its fds. A Keeper (systemd's fd store) receives every fd at creation
and releases it at deletion. It also holds two small memfds that contain the Record; the daemon writes them alternately.
The next daemon inherits all of these fds and continues to forward: see Manager.adopt().
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
"""A little less than the unit's FileDescriptorStoreMax=. All names return in one environment string, whose limit is
128 KiB (MAX_ARG_STRLEN). A name takes at most 7 bytes and a colon for the first 2**31 births."""


def fd_name(number: int) -> str:
    """Return the name of the number-th kept fd: short, as one string holds all names. Version 1 used the prefix "t"."""
    digits = ""
    while number:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return f"u{digits}"


class Keeper(Protocol):
    """A process that holds fds while the daemon does not run. Its methods never block for long.

    fd_store: whether such a process exists at all.
    """

    fd_store: bool

    def keep(self, name: str, fd: int) -> None:
        """Hold a duplicate of fd under name. Raises OSError if the request cannot be sent."""

    def forget(self, name: str) -> None:
        """Release the fd that is kept under name."""


class Memory:
    """The kept fds and the record of one manager. Not thread-safe; call put() and remove() on the loop."""

    def __init__(self, keeper: Keeper, inherited: Mapping[str, int], held: dict[str, HeldPair] | None = None) -> None:
        """Read a predecessor's record; inherited maps names to its fds, which the memory owns from now on.

        held are the predecessor's pairs that are already forwarding. The memory owns them, too: adoption takes them and
        the record out, so that neither is kept. complaints describes the unreadable parts.
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
                if name in self._inherited:  # an fd of that name that is no memfd
                    keeper.forget(name)
                keeper.keep(name, fd)
            else:
                del self._inherited[name]
            self._copies.append(fd)
        self._kept: set[str] = set()
        self._seq = self.record.seq if self.record else 0
        self._last_fd = self.record.last_fd if self.record else 0
        self._last_id = 0
        self.lost = self.orphans = 0  # the predecessor's pairs and fds that could not be taken over
        self._engine: EngineRecord | None = None
        self._pairs: dict[str, msgspec.Raw] = {}
        self.latest = b""  # the bytes of the last written record

    @property
    def kept_elsewhere(self) -> bool:
        """Whether the kept fds outlive this process."""
        return self._keeper.fd_store

    @property
    def inherited(self) -> Mapping[str, int]:
        """The inherited fds that were not taken yet, by name."""
        return self._inherited

    def keep(self, fds: tuple[int, ...]) -> list[str]:
        """Pass fds to the keeper, all or none; return the names under which it holds them.

        Raises VethError; with an fd store, ENOSPC beyond KEPT_MAX: a pair that is not kept would disappear without
        notice at a restart.
        """
        if self._keeper.fd_store and len(self._kept) + len(fds) > KEPT_MAX:
            reason = f"at most {KEPT_MAX} file descriptors can be kept across a restart"
            raise VethError(errno.ENOSPC, "newlink", reason=reason)
        names: list[str] = []
        try:
            for fd in fds:
                self._last_fd += 1
                names.append(fd_name(self._last_fd))
                self._keeper.keep(names[-1], fd)
        except OSError as error:
            self.forget(names)
            reason = f"the fd store did not accept its file descriptors: {error.strerror or error}"
            raise VethError(error.errno or errno.EAGAIN, "newlink", reason=reason) from error
        self._kept.update(names)
        return names

    def forget(self, names: list[str]) -> None:
        """Have the keeper release the fds of those names."""
        for name in names:
            self._keeper.forget(name)
        self._kept.difference_update(names)

    def take(self, names: list[str]) -> tuple[int, ...]:
        """Return the inherited fds of those names, which the caller then owns. Raises KeyError if one is missing."""
        found = {name: self._inherited[name] for name in names}
        for name in names:
            del self._inherited[name]
        self._kept.update(names)
        return tuple(found.values())

    def drop_rest(self, nursery: Nursery) -> int:
        """Delete the inherited devices that were not taken, as no record describes them. Returns the number of fds.

        For a worker thread. Closing the fds alone would leave the devices, and their names taken, until the keeper
        releases them.
        """
        rest, self._inherited = self._inherited, {}
        for name, fd in rest.items():
            with suppress(VethError):
                nursery.delete(Tap.adopt((fd,)))
            os.close(fd)
            if name not in COPIES:  # such a name refers to our own memfd by now
                self._keeper.forget(name)
        return len(rest)

    def knows(self, pair_id: str) -> bool:
        """Return whether a pair is in the latest record."""
        return pair_id in self._pairs

    def put(self, pairs: Iterable[PairRecord], last_id: int, engine: EngineRecord) -> None:
        """Write these pairs to the record, over their earlier entries; last_id is the last id number in use."""
        self._last_id, self._engine = last_id, engine
        self._pairs |= {pair.id: encode_pair(pair) for pair in pairs}
        self._write()

    def remove(self, pair_id: str) -> None:
        """Remove a pair from the record."""
        if self._pairs.pop(pair_id, None) is not None:
            self._write()

    def _write(self) -> None:
        """Overwrite the older copy."""
        self._seq += 1
        data = encode(self._seq, self._last_id, self._last_fd, self._pairs.values(), self._engine)
        self.latest = data
        fd = self._copies[self._seq % len(self._copies)]
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))

    def close(self) -> None:
        """Close our own fds; the keeper's duplicates stay open."""
        for fd in self._copies:
            os.close(fd)
        for fd in self._inherited.values():
            os.close(fd)
