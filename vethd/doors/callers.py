"""Who calls, and how much room there is for those who are no administrators.

An administrator is root, the user that the daemon runs as, or a member of the admin group; he may do anything. Anybody
else is his uid, as the kernel vouches for it (kernel/owner.py). What he may do is in rights.py; here is what keeps
him from taking the daemon up whole: a quota of pairs, a number of connections, one request at a time.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakValueDictionary

from vethd.kernel.owner import Peer
from vethd.model.errors import VethError
from vethd.model.spec import PairSpec

ADMIN_OWNER = 0
"""Owner of the pairs that administrators made, whoever of them it was, and of those of the config."""

QUOTA = 16
OTHERS_QUOTA = 1024
"""Pairs of all others together: a user may have a range of subordinate uids, each of which counts for itself."""

CONNECTIONS = 16
OTHERS_CONNECTIONS = 256


class Caller(NamedTuple):
    """Who made a request."""

    uid: int
    admin: bool

    @property
    def owner(self) -> int:
        """Whose pairs are his."""
        return ADMIN_OWNER if self.admin else self.uid


@dataclass(frozen=True)
class Policy:
    """Who is an administrator, and how many pairs each other uid may have; admin_gid None: no group."""

    admin_gid: int | None = None
    quota: int = QUOTA

    def caller(self, peer: Peer) -> Caller:
        """Say who the peer is to us."""
        admin = peer.uid in (0, os.geteuid()) or (self.admin_gid is not None and self.admin_gid in peer.gids)
        return Caller(peer.uid, admin)

    def check_quota(self, caller: Caller, spec: PairSpec, pairs: Iterable[tuple[int, PairSpec]]) -> None:
        """Check that caller may have one more pair beside those that there are, as (owner, spec) each.

        A pair of several queues counts as so many: it takes as many file descriptors. Raises VethError EDQUOT.
        """
        if caller.admin:
            return
        costs: Counter[int] = Counter()
        for owner, one in pairs:
            costs[owner] += cost(one)
        own, others = costs[caller.owner], costs.total() - costs[ADMIN_OWNER]
        name, wanted = spec.name or "", cost(spec)
        if own + wanted > self.quota:
            reason = f"uid {caller.uid} may have {self.quota} pairs (the daemon's quota), and has {own}"
            raise VethError(errno.EDQUOT, "newlink", name, reason)
        if others + wanted > OTHERS_QUOTA:
            reason = f"all users but the administrators together may have {OTHERS_QUOTA} pairs"
            raise VethError(errno.EDQUOT, "newlink", name, reason)


def cost(spec: PairSpec) -> int:
    """Return what a pair counts against a quota: its queues."""
    return max(spec.near_end().queues or 1, spec.far_end().queues or 1)


@dataclass
class Room:
    """The connections and requests of all who are no administrators; for them there is always room."""

    _connections: Counter[int] = field(default_factory=Counter)
    _turns: WeakValueDictionary[int, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    births: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by another's newlink: the thread of births, which is for all, has at most one of these in its queue."""

    def enter(self, caller: Caller) -> bool:
        """Count one more connection, which leave() ends; False, and it is not counted, where there is no room."""
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
            self._connections += Counter()  # forgets those who have none

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Wait for the end of the caller's other request, if he has one under way."""
        if caller.admin:
            yield
            return
        lock = self._turns.get(caller.uid)
        if lock is None:
            lock = self._turns[caller.uid] = asyncio.Lock()
        async with lock:
            yield
