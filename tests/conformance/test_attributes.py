"""Every attribute of an end at creation, on either end, and what an end is like when nothing was said.

Kernel: rtnl_create_link(), rtnl_configure_link(), veth_setup(), veth_newlink().
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.lib.lab import End, Lab, Wire
from tests.lib.rtnl import IFF_ALLMULTI, IFF_BROADCAST, IFF_MULTICAST, IFF_NOARP, IFF_PROMISC, Link
from tests.lib.wait import wait_until
from vethd.model.spec import RING, TXQUEUELEN, LinkSpec, PairSpec


class Attribute(NamedTuple):
    """What an end asks for, how to look at a link for it, what is to be seen; usual: it is so when unsaid, too."""

    spec: LinkSpec
    look: Callable[[Link], object]
    seen: object
    usual: bool = False


LONG_NAME = "a-name-of-more-than-fifteen-bytes"
ATTRIBUTES = {
    "address": Attribute(LinkSpec(address="02:00:00:00:00:07"), lambda link: link.address, "02:00:00:00:00:07"),
    "mtu-smallest": Attribute(LinkSpec(mtu=68), lambda link: link.mtu, 68),
    "mtu-jumbo": Attribute(LinkSpec(mtu=9000), lambda link: link.mtu, 9000),
    "txqueuelen": Attribute(LinkSpec(txqueuelen=2000), lambda link: link.txqueuelen, 2000),
    "group": Attribute(LinkSpec(group=42), lambda link: link.group, 42),
    "alias": Attribute(LinkSpec(alias="an end's alias"), lambda link: link.alias, "an end's alias"),
    "altname": Attribute(LinkSpec(altname=LONG_NAME), lambda link: LONG_NAME in link.altnames, seen=True),
    "arp-off": Attribute(LinkSpec(arp=False), lambda link: link.flags & IFF_NOARP, IFF_NOARP),
    "arp-on": Attribute(LinkSpec(arp=True), lambda link: link.flags & IFF_NOARP, 0, usual=True),
    "multicast-off": Attribute(LinkSpec(multicast=False), lambda link: link.flags & IFF_MULTICAST, 0),
    "allmulticast": Attribute(LinkSpec(allmulticast=True), lambda link: link.flags & IFF_ALLMULTI, IFF_ALLMULTI),
    "allmulti-count": Attribute(LinkSpec(allmulticast=True), lambda link: link.allmulti, 1),
    "promisc": Attribute(LinkSpec(promisc=True), lambda link: link.flags & IFF_PROMISC, IFF_PROMISC),
    "promisc-count": Attribute(LinkSpec(promisc=True), lambda link: link.promiscuity, 1),
    "addrgenmode-none": Attribute(LinkSpec(addrgenmode="none"), lambda link: link.addrgenmode, "none"),
    "addrgenmode-random": Attribute(LinkSpec(addrgenmode="random"), lambda link: link.addrgenmode, "random"),
    "gso_max_size": Attribute(LinkSpec(gso_max_size=30000), lambda link: link.gso_max_size, 30000),
    "gso_max_segs": Attribute(LinkSpec(gso_max_segs=10), lambda link: link.gso_max_segs, 10),
    "gro_max_size": Attribute(LinkSpec(gro_max_size=30000), lambda link: link.gro_max_size, 30000),
    "down": Attribute(LinkSpec(up=False), lambda link: link.up, seen=False, usual=True),
}


@pytest.mark.parametrize("which", ["near", "peer"])
@pytest.mark.parametrize("attribute", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attribute(lab: Lab, which: str, attribute: Attribute) -> None:
    """The end that asked has it, and the other does not."""
    asked, silent = attribute.spec, LinkSpec()
    wire = lab.pair(lab.netns("a"), lab.netns("b"), *((asked, silent) if which == "near" else (silent, asked)))
    mine, other = (wire.a.link, wire.b.link) if which == "near" else (wire.b.link, wire.a.link)
    assert attribute.look(mine) == attribute.seen
    assert (attribute.look(other) == attribute.seen) == attribute.usual


@pytest.mark.parametrize("length", [0, 17])
def test_short_txqueuelen(lab: Lab, length: int) -> None:
    """What it limits, which is nothing, is tested in test_frames.py."""
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(txqueuelen=length))
    assert wire.a.link.txqueuelen == (RING if lab.backend.differs("txqueuelen-is-the-ring") else length)
    assert wire.b.link.txqueuelen == TXQUEUELEN


def test_defaults(wire: Wire) -> None:
    for link in (wire.a.link, wire.b.link):
        assert link.flags == IFF_BROADCAST | IFF_MULTICAST
        assert (link.mtu, link.txqueuelen, link.group, link.master) == (1500, 1000, 0, 0)
        assert (link.gso_max_size, link.gso_max_segs, link.gro_max_size) == (65536, 65535, 65536)
        assert (link.promiscuity, link.allmulti, link.addrgenmode) == (0, 0, "eui64")
        assert (link.operstate, link.carrier) == ("DOWN", False)
        assert int(link.address[:2], 16) & 3 == 2, "unicast, and locally administered"
        assert not any(vars(link.stats).values())
    assert wire.a.link.address != wire.b.link.address


def test_alias_and_altname_nobody_asked_for(wire: Wire) -> None:
    """There are none, after an up, a rename and a down either: programs publish aliases, and names must be unique."""
    wire.up()
    wire.b.set("name vz")
    wire.b.name = "vz"
    wire.a.set("down")
    wire.b.wait(lambda link: not link.carrier)
    for link in (wire.a.link, wire.b.link):
        assert (link.alias, link.altnames) == ("", ())


def test_alias_of_a_user_stays(wire: Wire) -> None:
    wire.a.set("alias mine")
    wire.b.set("name vz")
    assert wire.a.link.alias == "mine"


def test_link_kind(lab: Lab, wire: Wire) -> None:
    kind = "tun" if lab.backend.differs("kind-is-tun") else "veth"
    assert (wire.a.link.kind, wire.b.link.kind) == (kind, kind)


def test_iflink_is_the_peer(lab: Lab, wire: Wire) -> None:
    absent = lab.backend.differs("no-iflink")
    a, b = wire.a.link, wire.b.link
    assert (a.iflink, b.iflink) == ((0, 0) if absent else (b.ifindex, a.ifindex))


def test_near_up(lab: Lab) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(up=True))
    assert (wire.a.link.up, wire.a.link.carrier) == (True, False)
    assert not wire.b.link.up
    wire.b.up()
    wire.wait_carrier()


def test_both_indexes(lab: Lab) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(index=4711), LinkSpec(index=815))
    assert (wire.a.link.ifindex, wire.b.link.ifindex) == (4711, 815)


def test_near_index_alone(lab: Lab) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(index=4711))
    assert wire.a.link.ifindex == 4711
    assert wire.b.link.ifindex < 4711


def test_peer_index_alone(lab: Lab) -> None:
    """The kernel does not look at the peer's index where the near end has none: veth_newlink()."""
    honoured = lab.backend.differs("peer-index-alone")
    wire = lab.pair(lab.netns("a"), lab.netns("b"), None, LinkSpec(index=4711))
    assert (wire.b.link.ifindex == 4711) == honoured


@pytest.mark.parametrize("which", ["near", "peer"])
def test_master(lab: Lab, which: str) -> None:
    a, b = lab.netns("a"), lab.netns("b")
    home = a if which == "near" else b
    home.ip("link add name br0 index 600 type bridge")
    enslaved = LinkSpec(master="br0")
    wire = lab.pair(a, b, *((enslaved, None) if which == "near" else (None, enslaved)))
    assert (wire.a.link.master, wire.b.link.master) == ((600, 0) if which == "near" else (0, 600))


@pytest.mark.parametrize("queues", [1, 2, 4])
def test_queues(lab: Lab, queues: int) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(queues=queues), LinkSpec(queues=queues))
    for end in (wire.a, wire.b):
        # ip mounts a /sys that shows this namespace
        seen = lab_sysfs(end, "queues").split()
        assert sorted(seen) == sorted(f"{kind}-{n}" for kind in ("rx", "tx") for n in range(queues))


def lab_sysfs(end: End, directory: str) -> str:
    """List a directory of an end's sysfs."""
    return end.netns.command("ip", "netns", "exec", end.netns.name, "ls", f"/sys/class/net/{end.name}/{directory}")


@pytest.mark.parametrize("which", ["near", "peer"])
@pytest.mark.parametrize("how", ["name", "path", "pid"])
def test_netns_by(lab: Lab, which: str, how: str) -> None:
    a, b = lab.netns("a"), lab.netns("b")
    target = a if which == "near" else b
    with target.process() as pid:
        said = {"name": target.name, "path": str(target.path), "pid": str(pid)}[how]
        near, far = (said, b.name) if which == "near" else (a.name, said)
        lab.backend.newlink(PairSpec(name="va", netns=near, peer=LinkSpec(name="vb", netns=far)))
    assert (a.names(), b.names()) == ({"va"}, {"vb"})


def test_netns_unsaid_is_the_requesters_own(lab: Lab) -> None:
    """Also the peer's, wherever the near end goes."""
    here, home = lab.netns(), lab.backend.home
    lab.backend.newlink(PairSpec(name="va", netns=here.name, peer=LinkSpec(name="vb")))
    lab.backend.newlink(PairSpec(name="vc", peer=LinkSpec(name="vd", netns=here.name)))
    lab.backend.newlink(PairSpec(name="ve"))
    assert here.names() == {"va", "vd"}
    assert home.names() == {"vb", "vc", "ve", "veth0"}
    for name in ("vb", "vc", "ve"):
        lab.backend.dellink(name, "")
    wait_until(lambda: not here.names() | home.names(), what="all gone")


def test_both_ends_in_one_netns(lab: Lab) -> None:
    here = lab.netns()
    wire = lab.pair(here, here)
    assert here.names() == {"va", "vb"}
    wire.up()
