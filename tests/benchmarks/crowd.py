"""A crowd of idle pairs: made one after the other, all up, and deleted again."""

from __future__ import annotations

import time
from contextlib import ExitStack

from tests.benchmarks.extra import inside
from tests.lib import rtnl
from tests.lib.backends import Vethd
from tests.lib.lab import Lab
from tests.lib.machine import cpu_s
from tests.lib.netns import Netns
from tests.lib.rtnl import Rtnl, nest, text
from tests.lib.wait import wait_until
from vethd.control.client import Client
from vethd.model.spec import LinkSpec, PairSpec

GROUP = 7
DEADLINE_S = 300.0
RESTED_S = 0.5
TICK_S = 0.01  # less than that within RESTED_S is rest


class Crowd:
    """Pairs of one side, wa0 and wb0 and so on, between two namespaces, or both ends in the side's own."""

    def __init__(self, lab: Lab, stack: ExitStack, near: Netns | None = None, far: Netns | None = None) -> None:
        """Prepare; nothing is made."""
        self.home = lab.backend.home
        self.backend = lab.backend
        self.near, self.far = near or self.home, far or self.home
        self.sockets = {ns.name: stack.enter_context(Rtnl(ns)) for ns in dict.fromkeys((self.near, self.far))}
        daemon = lab.backend.daemon if isinstance(lab.backend, Vethd) else None
        self.client = Client(str(daemon.socket), timeout_s=DEADLINE_S) if daemon else None
        self.ids: list[str] = []
        self.count = 0

    def grow(self, more: int) -> None:
        """Make more pairs and wait until all of them have carrier."""
        with inside(self.home):  # an unsaid namespace is the client's own
            for n in range(self.count, self.count + more):
                self._make(n)
        self.count += more
        wait_until(lambda: self._carriers() == 2 * self.count, DEADLINE_S, "every carrier")

    def clear(self) -> None:
        """Delete them, one after the other, and wait until no device of theirs is left."""
        for n in range(self.count):
            if self.client is not None:
                self.client.delete(self.ids[n])
            else:
                body = rtnl.ifinfomsg() + nest([(rtnl.IFLA_IFNAME, text(f"wa{n}"))])
                self.sockets[self.near.name].request(rtnl.RTM_DELLINK, 0, body)
        self.ids, self.count = [], 0
        wait_until(lambda: not self._ends(), DEADLINE_S, "every end gone")

    def settled(self, pid: int) -> None:
        """Wait until a process has done what creation left it to do."""
        last, since = cpu_s(pid), time.monotonic()

        def rested() -> bool:
            nonlocal last, since
            now = cpu_s(pid)
            if now - last > TICK_S:
                last, since = now, time.monotonic()
            return time.monotonic() - since > RESTED_S

        wait_until(rested, DEADLINE_S, "the daemon at rest")

    def _make(self, n: int) -> None:
        spec = self._spec(n)
        if self.client is not None:
            self.ids.append(self.client.create(spec).id)
            return
        self.backend.newlink(spec)
        for name, netns in ((f"wa{n}", self.near), (f"wb{n}", self.far)):
            self._up(self.sockets[netns.name], name)

    def _spec(self, n: int) -> PairSpec:
        vethd = self.client is not None
        near, far = (None if ns is self.home else ns.name for ns in (self.near, self.far))
        up = True if vethd else None  # the kernel takes no `up` for a peer that is not made yet
        peer = LinkSpec(name=f"wb{n}", netns=far, group=GROUP, up=up)
        return PairSpec(name=f"wa{n}", netns=near, group=GROUP, up=up, peer=peer)

    def _carriers(self) -> int:
        return sum(link.carrier for sock in self.sockets.values() for link in sock.links() if link.group == GROUP)

    def _ends(self) -> int:
        return sum(link.group == GROUP for sock in self.sockets.values() for link in sock.links())

    @staticmethod
    def _up(sock: Rtnl, name: str) -> None:
        body = rtnl.ifinfomsg(0, rtnl.IFF_UP, rtnl.IFF_UP) + nest([(rtnl.IFLA_IFNAME, text(name))])
        sock.request(rtnl.RTM_NEWLINK, 0, body)
