"""What newlink refuses, with which errno, and that a refusal leaves the machine as it was.

Kernel: veth_validate(), rtnl_newlink(), dev_get_valid_name().
"""

from __future__ import annotations

import errno

import pytest

from tests.lib.backends import Backend
from tests.lib.lab import Lab
from tests.lib.netns import Netns
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec

GOOD = "02:00:00:00:00:01"
MULTICAST = "01:00:5e:00:00:01"


def refusal(backend: Backend, spec: PairSpec) -> str:
    """Return the errno's symbol with which newlink refuses spec; "" where it does not."""
    try:
        backend.newlink(spec)
    except VethError as error:
        return error.code
    return ""


def pair_of(lab: Lab, near: LinkSpec, far: LinkSpec | None) -> tuple[PairSpec, Netns, Netns]:
    """Return a spec of the two ends, in two new namespaces; names va and vb where the ends say none."""
    a, b = lab.netns("a"), lab.netns("b")
    return lab.spec(a, b, near, far), a, b


def ends(bad: LinkSpec, which: str) -> tuple[LinkSpec, LinkSpec]:
    """Put bad at the near or at the far end."""
    return (bad, LinkSpec()) if which == "near" else (LinkSpec(), bad)


@pytest.mark.parametrize("which", ["near", "peer"])
@pytest.mark.parametrize(
    ("address", "code"),
    [
        (MULTICAST, "EADDRNOTAVAIL"),
        ("00:00:00:00:00:00", "EADDRNOTAVAIL"),
        ("ff:ff:ff:ff:ff:ff", "EADDRNOTAVAIL"),
        ("02:00:00:00:01", "EINVAL"),
        ("02:00:00:00:00:00:01", "EINVAL"),
        (GOOD, ""),
    ],
)
def test_address(lab: Lab, which: str, address: str, code: str) -> None:
    spec, a, b = pair_of(lab, *ends(LinkSpec(address=address), which))
    assert refusal(lab.backend, spec) == code
    assert a.names() == ({"va"} if not code else set())
    assert b.names() == ({"vb"} if not code else set())


@pytest.mark.parametrize("which", ["near", "peer"])
@pytest.mark.parametrize("mtu", [67, 68, 65521, 65522, 65535, 65536])
def test_mtu(lab: Lab, which: str, mtu: int) -> None:
    last = 65521 if mtu > 65521 and lab.backend.differs("mtu-above-65521") else 65535
    code = "" if 68 <= mtu <= last else "EINVAL"
    spec, a, b = pair_of(lab, *ends(LinkSpec(mtu=mtu), which))
    assert refusal(lab.backend, spec) == code
    assert a.names() == ({"va"} if not code else set())
    assert b.names() == ({"vb"} if not code else set())


@pytest.mark.parametrize("which", ["near", "peer"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("v" * 15, ""),
        ("v" * 16, "ERANGE"),
        ("", "EINVAL"),
        ("a/b", "EINVAL"),
        ("a b", "EINVAL"),
        ("a\tb", "EINVAL"),
        ("a:0", "EINVAL"),
        (".", "EINVAL"),
        ("..", "EINVAL"),
        ("%d%d", "EINVAL"),
        ("v%s", "EINVAL"),
        ("v%", "EINVAL"),
        ("all", "EINVAL"),
        ("default", "EINVAL"),
        ("vé", ""),
    ],
)
def test_name(lab: Lab, which: str, name: str, code: str) -> None:
    spec, a, b = pair_of(lab, *ends(LinkSpec(name=name), which))
    assert refusal(lab.backend, spec) == code
    if code:
        assert a.names() | b.names() == set()
    else:
        assert name in (a if which == "near" else b).names()


@pytest.mark.parametrize("which", ["near", "peer"])
def test_name_taken(lab: Lab, which: str) -> None:
    spec, a, b = pair_of(lab, *ends(LinkSpec(name="lo"), which))
    assert refusal(lab.backend, spec) == "EEXIST"
    assert a.names() | b.names() == set()


def test_second_pair_of_the_same_names(lab: Lab) -> None:
    spec, a, b = pair_of(lab, LinkSpec(), None)
    lab.backend.newlink(spec)
    wire = lab.wire(a, b)
    before = [(link.ifindex, link.address) for link in (wire.a.link, wire.b.link)]
    assert refusal(lab.backend, spec) == "EEXIST"
    assert [(link.ifindex, link.address) for link in (wire.a.link, wire.b.link)] == before
    assert (a.names(), b.names()) == ({"va"}, {"vb"})
    wire.up()


def test_same_name_twice_in_one_netns(lab: Lab) -> None:
    netns = lab.netns()
    spec = PairSpec(name="va", netns=netns.name, peer=LinkSpec(name="va", netns=netns.name))
    assert refusal(lab.backend, spec) == "EEXIST"
    assert netns.names() == set()


def test_name_taken_as_altname(lab: Lab) -> None:
    spec, a, b = pair_of(lab, LinkSpec(), None)
    b.ip("link property add dev lo altname vb")
    assert refusal(lab.backend, spec) == "EEXIST"
    assert a.names() | b.names() == set()


@pytest.mark.parametrize("which", ["near", "peer"])
@pytest.mark.parametrize(
    ("netns", "code"), [("vt-nowhere", "ENOENT"), ("/run/netns/vt-nowhere", "ENOENT"), ("4194305", "ESRCH")]
)
def test_netns_missing(lab: Lab, which: str, netns: str, code: str) -> None:
    here = lab.netns()
    near, far = (netns, here.name) if which == "near" else (here.name, netns)
    spec = PairSpec(name="va", netns=near, peer=LinkSpec(name="vb", netns=far))
    assert refusal(lab.backend, spec) == code
    assert here.names() == set()


def test_near_index_in_use(lab: Lab) -> None:
    spec, a, b = pair_of(lab, LinkSpec(index=4711), None)
    a.ip("link add name br0 index 4711 type bridge")
    assert refusal(lab.backend, spec) == "EEXIST"
    assert (a.names(), b.names()) == ({"br0"}, set())


def test_peer_index_in_use(lab: Lab) -> None:
    spec, a, b = pair_of(lab, LinkSpec(index=4710), LinkSpec(index=4711))
    b.ip("link add name br0 index 4711 type bridge")
    assert refusal(lab.backend, spec) == "EBUSY"
    assert (a.names(), b.names()) == (set(), {"br0"})


@pytest.mark.parametrize("which", ["near", "peer"])
def test_master_missing(lab: Lab, which: str) -> None:
    spec, a, b = pair_of(lab, *ends(LinkSpec(master="br-none"), which))
    assert refusal(lab.backend, spec) == "ENODEV"
    assert a.names() | b.names() == set()


def test_peer_up(lab: Lab) -> None:
    """The peer is made first and has nobody across: veth_open() says ENOTCONN."""
    spec, a, b = pair_of(lab, LinkSpec(), LinkSpec(up=True))
    assert refusal(lab.backend, spec) == "ENOTCONN"
    assert a.names() | b.names() == set()


FAULTS = {
    "mac": LinkSpec(address=MULTICAST),
    "mtu": LinkSpec(mtu=67),
    "long": LinkSpec(name="v" * 16),
    "slash": LinkSpec(name="a/b"),
    "taken": LinkSpec(name="lo"),
    "up": LinkSpec(up=True),
}


@pytest.mark.parametrize(
    ("near", "peer", "code"),
    [
        ("mac", "mtu", "EADDRNOTAVAIL"),
        ("mtu", "mac", "EINVAL"),
        ("mac", "slash", "EADDRNOTAVAIL"),
        ("mtu", "taken", "EINVAL"),
        ("mac", "up", "EADDRNOTAVAIL"),
        ("long", "mac", "ERANGE"),
        ("mac", "long", "EADDRNOTAVAIL"),
        ("taken", "slash", "EEXIST"),
    ],
)
def test_near_fault_comes_first(lab: Lab, near: str, peer: str, code: str) -> None:
    spec, a, b = pair_of(lab, FAULTS[near], FAULTS[peer])
    if {near, peer} == {"taken", "slash"} and lab.backend.differs("names-before-machine"):
        code = "EINVAL"
    assert refusal(lab.backend, spec) == code
    assert a.names() | b.names() == set()


@pytest.mark.parametrize(
    ("near", "peer", "code"),
    [
        ("slash", "mac", "EADDRNOTAVAIL"),  # a name's characters are looked at when its device is registered,
        ("slash", "up", "ENOTCONN"),  # and the peer is made, and set up, before the near end is
        ("slash", "taken", "EEXIST"),
    ],
)
def test_bad_near_name_comes_last(lab: Lab, near: str, peer: str, code: str) -> None:
    spec, a, b = pair_of(lab, FAULTS[near], FAULTS[peer])
    if {near, peer} == {"taken", "slash"} and lab.backend.differs("names-before-machine"):
        code = "EINVAL"
    assert refusal(lab.backend, spec) == code
    assert a.names() | b.names() == set()


def test_address_fault_before_mtu_fault_of_one_end(lab: Lab) -> None:
    spec, _, _ = pair_of(lab, LinkSpec(address=MULTICAST, mtu=67), None)
    assert refusal(lab.backend, spec) == "EADDRNOTAVAIL"


@pytest.mark.parametrize("link", [LinkSpec(queues=0), LinkSpec(gso_max_size=1 << 20)], ids=["queues", "gso"])
def test_out_of_range(lab: Lab, link: LinkSpec) -> None:
    spec, a, b = pair_of(lab, link, None)
    assert refusal(lab.backend, spec) == "EINVAL"
    assert a.names() | b.names() == set()


def test_dellink_of_none(lab: Lab) -> None:
    netns = lab.netns()
    with pytest.raises(VethError) as caught:
        lab.backend.dellink("va", netns.name)
    assert caught.value.errno == errno.ENODEV
