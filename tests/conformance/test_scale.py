"""A thousand pairs: made, up, used, deleted, and nothing left.

home: va0 ===== vb0 :there     even numbers, as where containers come from
home: va1 ===== vb1 :home      odd numbers
"""

from __future__ import annotations

import pytest

from tests.lib.lab import Lab, Wire
from tests.lib.netns import Netns
from tests.lib.rtnl import Rtnl
from tests.lib.sockets import ping
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec

# a minute of making and deleting, and four frames: nothing here is coalesced, whatever the backend
pytestmark = pytest.mark.without_frames

PAIRS = 1000
GROUP = 7
SCALE_S = 120.0
LOOK_S = 0.2  # a dump of a thousand links holds the RTNL lock, for which every carrier waits


def carriers(netns: Netns) -> int:
    """Count the links of a namespace that have carrier."""
    with Rtnl(netns) as sock:
        return sum(link.carrier for link in sock.links() if link.group == GROUP)


def test_thousand_pairs(lab: Lab) -> None:
    home, there = lab.backend.home, lab.netns("there")

    def pair(n: int) -> Wire:
        near, far = LinkSpec(name=f"va{n}", group=GROUP), LinkSpec(name=f"vb{n}", group=GROUP)
        return lab.pair(home, home if n % 2 else there, near, far)

    wires = [pair(n) for n in range(PAIRS)]
    assert (len(home.names()), len(there.names())) == (PAIRS * 3 // 2, PAIRS // 2)
    for netns in (home, there):
        netns.ip(f"link set group {GROUP} up")
    wait_until(lambda: carriers(home) + carriers(there) == 2 * PAIRS, SCALE_S, "every carrier", poll_s=LOOK_S)

    for n in (0, 2, PAIRS // 2, PAIRS - 2):
        near, far = wires[n].addresses(f"10.{100 + n // 200}.{n % 200}")
        ping(home, near, there, far)

    for n in range(0, 10, 2):
        lab.backend.dellink(f"va{n}", home.name)
        there.ip(f"link del vb{n + 10}")
    home.ip(f"link del group {GROUP}")
    wait_until(lambda: not home.names() | there.names(), SCALE_S, "all gone")


def test_netns_with_many_pairs_dies(lab: Lab) -> None:
    """All at once: the other ends, in many namespaces, go with it."""
    hub = lab.netns("hub")
    spokes = [lab.netns(f"{n}") for n in range(20)]
    for n, spoke in enumerate(spokes):
        for port in range(5):
            lab.pair(hub, spoke, LinkSpec(name=f"p{n}-{port}", up=True), LinkSpec(name=f"e{port}"))
    hub.delete()
    wait_until(lambda: not any(spoke.names() for spoke in spokes), SCALE_S, "no end left")
