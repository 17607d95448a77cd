"""Classify callers, and limit the resources of callers that are not administrators.

An administrator is root, the user that the daemon runs as, or a member of the admin group; administrators may do
anything. Any other caller is identified by its uid, which the kernel reports (kernel/owner.py). rights.py defines the
operations that such a caller may use. This module keeps it from using up the daemon: it has a quota of pairs, a maximum
number of connections, and one request at a time.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakValueDictionary

from vethd.kernel.owner import Peer
from vethd.model.errors import VethError
from vethd.model.spec import LATENCY_QUEUES, PairSpec

ADMIN_OWNER = 0
"""Owner of all pairs that administrators made, and of the config's."""

QUOTA = 16
OTHERS_QUOTA = 1024
"""Pairs of all other users together: a user may have a range of subordinate uids, each with a quota of its own."""

CONNECTIONS = 16
OTHERS_CONNECTIONS = 256

BUFFERS = 16 << 20
OTHERS_BUFFERS = 64 << 20
"""Bytes of captures' buffers of one other user, and of all of them together."""


class Caller(NamedTuple):
    """The user that made a request."""

    uid: int
    admin: bool

    @property
    def owner(self) -> int:
        """The owner of the pairs that this caller makes."""
        return ADMIN_OWNER if self.admin else self.uid


@dataclass(frozen=True)
class Policy:
    """Which callers are administrators, and how many pairs each other uid may have; admin_gid None means no group."""

    admin_gid: int | None = None
    quota: int = QUOTA

    def caller(self, peer: Peer) -> Caller:
        """Return the caller for a connection's peer."""
        admin = peer.uid in (0, os.geteuid()) or (self.admin_gid is not None and self.admin_gid in peer.gids)
        return Caller(peer.uid, admin)

    def check_quota(self, caller: Caller, spec: PairSpec, pairs: Iterable[tuple[int, PairSpec]]) -> None:
        """Check that caller may have one more pair; pairs lists the present ones, as (owner, spec).

        A pair counts once for each queue, as each queue takes file descriptors. Raises VethError EDQUOT.
        """
        if caller.admin:
            return
        costs: Counter[int] = Counter()
        for owner, one in pairs:
            costs[owner] += cost(one)
        own, others = costs[caller.owner], costs.total() - costs[ADMIN_OWNER]
        name, wanted = spec.name or "", cost(spec)
        if own + wanted > self.quota:
            reason = f"uid {caller.uid} may have {self.quota} pairs (the daemon's quota) and has {own}"
            raise VethError(errno.EDQUOT, "newlink", name, reason)
        if others + wanted > OTHERS_QUOTA:
            reason = f"all users that are not administrators may have {OTHERS_QUOTA} pairs together"
            raise VethError(errno.EDQUOT, "newlink", name, reason)


def cost(spec: PairSpec) -> int:
    """Return a pair's cost against a quota: the number of its queues."""
    return LATENCY_QUEUES if spec.latency_queue else max(spec.near_end().queues or 1, spec.far_end().queues or 1)


@dataclass
class Room:
    """Counts the connections and requests of callers that are not administrators; administrators have no limit."""

    _connections: Counter[int] = field(default_factory=Counter)
    _buffers: Counter[int] = field(default_factory=Counter)
    _turns: WeakValueDictionary[int, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    births: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held during a newlink of such a caller: the thread of births, which all share, has at most one of them queued."""

    def enter(self, caller: Caller) -> bool:
        """Count one more connection, until leave(); return False, and do not count it, if the limit is reached."""
        if caller.admin:
            return True
        if self._connections[caller.uid] >= CONNECTIONS or self._connections.total() >= OTHERS_CONNECTIONS:
            return False
        self._connections[caller.uid] += 1
        return True

    def leave(self, caller: Caller) -> None:
        """End a connection that enter() counted."""
        if not caller.admin:
            self._connections[caller.uid] -= 1
            self._connections += Counter()  # removes the entries that are 0

    def buffer(self, caller: Caller, size: int) -> Callable[[], None]:
        """Count a capture's buffer of size bytes until the returned function is called. Raises VethError EDQUOT."""
        if caller.admin:
            return lambda: None
        if self._buffers[caller.uid] + size > BUFFERS or self._buffers.total() + size > OTHERS_BUFFERS:
            reason = f"uid {caller.uid} may have buffers of {BUFFERS} bytes, and all users {OTHERS_BUFFERS}"
            raise VethError(errno.EDQUOT, "capture", reason=reason)
        self._buffers[caller.uid] += size

        def leave() -> None:
            self._buffers[caller.uid] -= size
            self._buffers += Counter()  # removes the entries that are 0

        return leave

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Wait until no other request of the caller is in progress."""
        if caller.admin:
            yield
            return
        lock = self._turns.get(caller.uid)
        if lock is None:
            lock = self._turns[caller.uid] = asyncio.Lock()
        async with lock:
            yield
