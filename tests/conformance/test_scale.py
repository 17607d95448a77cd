"""A thousand pairs between home and another namespace: made, up, used, deleted, and nothing left."""

from __future__ import annotations

from tests.lib.lab import Lab
from tests.lib.netns import Netns
from tests.lib.rtnl import Rtnl
from tests.lib.sockets import ping
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec

PAIRS = 1000
GROUP = 7
SCALE_S = 60.0


def carriers(netns: Netns) -> int:
    """Count the links of a namespace that have carrier."""
    with Rtnl(netns) as sock:
        return sum(link.carrier for link in sock.links() if link.group == GROUP)


def test_thousand_pairs(lab: Lab) -> None:
    a, b = lab.backend.home, lab.netns("b")  # as where containers come from: here, and there
    wires = [
        lab.pair(a, b, LinkSpec(name=f"va{n}", group=GROUP), LinkSpec(name=f"vb{n}", group=GROUP)) for n in range(PAIRS)
    ]
    assert (len(a.names()), len(b.names())) == (PAIRS, PAIRS)
    for netns in (a, b):
        netns.ip(f"link set group {GROUP} up")
    wait_until(lambda: carriers(a) == carriers(b) == PAIRS, SCALE_S, "every carrier")

    for n in (0, 1, PAIRS // 2, PAIRS - 1):
        near, far = wires[n].addresses(f"10.{100 + n // 200}.{n % 200}")
        ping(a, near, b, far)

    for n in range(5):
        lab.backend.dellink(f"va{n}", a.name)
        b.ip(f"link del vb{n + 5}")
    a.ip(f"link del group {GROUP}")
    wait_until(lambda: not a.names() | b.names(), SCALE_S, "all gone")


def test_netns_with_many_pairs_dies(lab: Lab) -> None:
    """All at once: the other ends, in many namespaces, go with it."""
    hub = lab.netns("hub")
    spokes = [lab.netns(f"{n}") for n in range(20)]
    for n, spoke in enumerate(spokes):
        for port in range(5):
            lab.pair(hub, spoke, LinkSpec(name=f"p{n}-{port}", up=True), LinkSpec(name=f"e{port}"))
    hub.delete()
    wait_until(lambda: not any(spoke.names() for spoke in spokes), SCALE_S, "no end left")
