"""Which names ends get: patterns, unnamed peers, unnamed both, and whose attributes an unnamed peer has.

Kernel: veth_newlink(), rtnl_create_link(), __dev_alloc_name(). The peer is made first, so it takes the first number.
"""

from __future__ import annotations

import pytest

from tests.lib.lab import End, Lab
from vethd.model.spec import LinkSpec, PairSpec

NEAR_MAC = "02:00:00:00:00:05"


def test_unnamed_pair(lab: Lab) -> None:
    here = lab.netns()
    lab.backend.newlink(PairSpec(netns=here.name, address=NEAR_MAC))
    assert here.names() == {"veth0", "veth1"}
    assert End(here, "veth1").link.address == NEAR_MAC
    assert End(here, "veth0").link.address != NEAR_MAC


def test_unnamed_peer(lab: Lab) -> None:
    here = lab.netns()
    lab.backend.newlink(PairSpec(name="va", netns=here.name))
    assert here.names() == {"va", "veth0"}


def test_unnamed_peer_elsewhere(lab: Lab) -> None:
    here, there = lab.netns("a"), lab.netns("b")
    lab.backend.newlink(PairSpec(name="va", netns=here.name, mtu=1400, peer=LinkSpec(netns=there.name)))
    assert (here.names(), there.names()) == ({"va"}, {"veth0"})
    assert End(there, "veth0").link.mtu == 1500


def test_both_unnamed_in_two_netns(lab: Lab) -> None:
    here, there = lab.netns("a"), lab.netns("b")
    lab.backend.newlink(PairSpec(netns=here.name, peer=LinkSpec(netns=there.name)))
    assert (here.names(), there.names()) == ({"veth0"}, {"veth0"})


def test_one_pattern_twice(lab: Lab) -> None:
    here = lab.netns()
    lab.backend.newlink(
        PairSpec(name="x%d", netns=here.name, address=NEAR_MAC, peer=LinkSpec(name="x%d", netns=here.name))
    )
    assert here.names() == {"x0", "x1"}
    assert End(here, "x1").link.address == NEAR_MAC


@pytest.mark.parametrize(
    ("pattern", "first", "second"), [("x%d", "x2", "x4"), ("%dx", "2x", "4x"), ("x%dy", "x2y", "x4y")]
)
def test_pattern_takes_lowest_free_number(lab: Lab, pattern: str, first: str, second: str) -> None:
    here = lab.netns()
    for taken in (0, 1, 3):
        here.ip(f"link add name {pattern.replace('%d', str(taken))} type bridge")
    before = here.names()
    lab.backend.newlink(PairSpec(name=pattern, netns=here.name, peer=LinkSpec(name=pattern, netns=here.name)))
    assert here.names() - before == {first, second}


def test_pattern_counts_per_netns(lab: Lab) -> None:
    here, there = lab.netns("a"), lab.netns("b")
    here.ip("link add name x0 type bridge")
    lab.backend.newlink(PairSpec(name="x%d", netns=here.name, peer=LinkSpec(name="x%d", netns=there.name)))
    assert (here.names(), there.names()) == ({"x0", "x1"}, {"x0"})


def test_pattern_of_fifteen_bytes(lab: Lab) -> None:
    here = lab.netns()
    lab.backend.newlink(PairSpec(name="v" * 13 + "%d", netns=here.name, peer=LinkSpec(name="b", netns=here.name)))
    assert here.names() == {"v" * 13 + "0", "b"}


def test_unnamed_peer_inherits(lab: Lab) -> None:
    here = lab.netns()
    spec = PairSpec(
        name="va",
        netns=here.name,
        address=NEAR_MAC,
        mtu=1400,
        txqueuelen=1077,
        group=5,
        gso_max_size=30000,
        gso_max_segs=20,
        gro_max_size=40000,
        alias="near only",
        promisc=True,
    )
    lab.backend.newlink(spec)
    near, peer = End(here, "va").link, End(here, "veth0").link
    for link in (near, peer):
        assert (link.mtu, link.txqueuelen, link.group) == (1400, 1077, 5)
        assert (link.gso_max_size, link.gso_max_segs, link.gro_max_size) == (30000, 20, 40000)
    assert near.address == NEAR_MAC
    assert peer.address != NEAR_MAC
    assert (near.promiscuity, peer.promiscuity) == (1, 0)
    assert near.alias == "near only"
    assert peer.alias != "near only"


def test_named_peer_inherits_nothing(lab: Lab) -> None:
    near = LinkSpec(mtu=1400, txqueuelen=1077, group=5, gso_max_size=30000, gso_max_segs=20, gro_max_size=40000)
    wire = lab.pair(lab.netns("a"), lab.netns("b"), near)
    link = wire.b.link
    assert (link.mtu, link.txqueuelen, link.group) == (1500, 1000, 0)
    assert (link.gso_max_size, link.gso_max_segs, link.gro_max_size) == (65536, 65535, 65536)
