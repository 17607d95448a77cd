"""Renames, moves, new addresses under traffic; and death, of an end or of a namespace, which takes both ends.

Kernel: veth_dellink(), default_device_exit_batch().
"""

from __future__ import annotations

import errno
import os

import pytest

from tests.lib.frames import sized
from tests.lib.lab import End, Lab, Wire
from tests.lib.rtnl import RTM_DELLINK
from tests.lib.sockets import exchange, ping, udp_pair
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec, PairSpec

DEATH_S = 2.0


def test_address_change_while_up(live: Wire) -> None:
    """The new address answers; nothing went down."""
    near, far = live.addresses()
    with udp_pair(live.a.netns, near, live.b.netns, far) as (left, right):
        exchange(left, right, b"before")
        changes = live.b.link.carrier_changes
        live.b.set("address 02:00:00:00:be:ef")
        live.a.netns.ip(f"neigh flush dev {live.a.name}")
        exchange(left, right, b"after")
        assert live.b.link.address == "02:00:00:00:be:ef"
        assert live.b.link.carrier_changes == changes
        assert "02:00:00:00:be:ef" in live.a.netns.command("ip", "neigh")


@pytest.mark.parametrize("address", ["01:00:00:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"])
def test_bad_address_while_up(live: Wire, address: str) -> None:
    before = live.a.link.address
    with pytest.raises(AssertionError, match=os.strerror(errno.EADDRNOTAVAIL)):
        live.a.set(f"address {address}")
    assert live.a.link.address == before


def test_rename_under_traffic(live: Wire) -> None:
    """A link that is up may be renamed; its sockets, addresses and carrier stay."""
    near, far = live.addresses()
    with udp_pair(live.a.netns, near, live.b.netns, far) as (left, right):
        for n, name in enumerate(("other", "va", "a-fifteen-bytes", "vx")):
            exchange(left, right, b"before %d" % n)
            live.a.set(f"name {name}")
            live.a.name = name
            exchange(left, right, b"after %d" % n)
    assert live.a.link.carrier
    live.b.down()
    live.a.wait_carrier(False)
    live.b.up()
    live.a.wait_carrier()


def test_ends_exchange_their_names(lab: Lab) -> None:
    here = lab.netns()
    wire = lab.pair(here, here)
    macs = wire.a.link.address, wire.b.link.address
    here.ip("link set va name tmp", "link set vb name va", "link set tmp name vb")
    assert (wire.b.link.address, wire.a.link.address) == macs
    wire.up()
    wire.a.down()
    wire.b.wait_carrier(False)


def test_move_and_back_under_traffic(lab: Lab, live: Wire) -> None:
    elsewhere = lab.netns("c")
    near, far = live.addresses()
    ping(live.a.netns, near, live.b.netns, far)
    home = live.b.netns
    for target in (elsewhere, home):
        live.b.set(f"netns {target.name}")
        live.b.netns = target
        live.a.wait_carrier(False)
        assert (live.b.link.up, live.b.link.carrier) == (False, False)
        live.b.address(f"{far}/24")  # a move takes addresses away
        live.b.up()
        live.wait_carrier()
        live.b.wait(lambda link: link.qdisc == "noqueue")
        ping(live.a.netns, near, target, far)


def test_move_with_a_new_name(lab: Lab, live: Wire) -> None:
    elsewhere = lab.netns("c")
    live.b.netns.ip(f"link set dev vb netns {elsewhere.name} name eth0")
    live.b = End(elsewhere, "eth0")
    live.wait_carrier(False)
    live.up()
    near, far = live.addresses()
    ping(live.a.netns, near, elsewhere, far)


def test_pairs_of_equal_names_meet_in_one_netns(lab: Lab) -> None:
    """As a runtime does that calls every container's end eth0: nothing but the names themselves must be unique."""
    a, b, c, d = (lab.netns(name) for name in "abcd")
    for near, far in ((a, b), (c, d)):
        lab.backend.newlink(PairSpec(name="eth0", netns=near.name, peer=LinkSpec(name="eth0", netns=far.name)))
    a.ip(f"link set dev eth0 netns {c.name} name eth1")
    b.ip(f"link set dev eth0 netns {d.name} name eth1")
    assert (a.names(), b.names(), c.names(), d.names()) == (set(), set(), {"eth0", "eth1"}, {"eth0", "eth1"})


def test_ends_of_equal_names_change_places(lab: Lab) -> None:
    """Both ends of a pair of equal names change places, several times in a row."""
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(name="eth0"), LinkSpec(name="eth0"))
    for _ in range(5):
        wire.a.netns.ip("link set dev eth0 name tmp0")
        wire.a.netns.ip(f"link set dev tmp0 netns {wire.b.netns.name}")
        wire.b.netns.ip(f"link set dev eth0 netns {wire.a.netns.name}", "link set dev tmp0 name eth0")
    wire.up()
    near, far = wire.addresses()
    ping(wire.a.netns, near, wire.b.netns, far)


def test_move_while_down_keeps_what_was_set(lab: Lab) -> None:
    said = LinkSpec(mtu=1400, txqueuelen=1055, group=7, alias="kept", address="02:00:00:00:00:77")
    wire = lab.pair(lab.netns("a"), lab.netns("b"), None, said)
    wire.b.netns.ip(f"link set dev vb netns {lab.netns('c').name}")
    wire.b.netns = lab.netnses[-1]
    link = wire.b.link
    assert (link.mtu, link.txqueuelen, link.alias) == (1400, 1055, "kept")
    assert (link.address, link.group) == ("02:00:00:00:00:77", 7)


def test_qdisc_at_birth(live: Wire) -> None:
    assert (live.a.link.qdisc, live.b.link.qdisc) == ("noqueue", "noqueue")


def test_both_ends_move(lab: Lab, live: Wire) -> None:
    places = lab.netns("c"), lab.netns("d")
    for end, place in zip((live.a, live.b), places, strict=True):
        end.set(f"netns {place.name}")
        end.netns = place
    live.wait_carrier(False)
    live.up()
    near, far = live.addresses()
    ping(places[0], near, places[1], far)


def test_both_ends_move_into_one_netns(live: Wire) -> None:
    live.a.set(f"netns {live.b.netns.name}")
    live.a.netns = live.b.netns
    live.up()
    assert live.b.netns.names() == {"va", "vb"}


@pytest.mark.parametrize("state", ["down", "up"])
@pytest.mark.parametrize("which", ["near", "far"])
@pytest.mark.parametrize("how", ["ip", "backend"])
def test_delete_takes_both(lab: Lab, wire: Wire, how: str, which: str, state: str) -> None:
    if state == "up":
        wire.up()
    victim, other = (wire.a, wire.b) if which == "near" else (wire.b, wire.a)
    with other.listen() as events:
        if how == "ip":
            victim.netns.ip(f"link del {victim.name}")
        else:
            lab.backend.dellink(victim.name, victim.netns.name)
        assert not victim.exists
        other.wait_gone(DEATH_S)
        kinds = [kind for kind, link in events.events() if link.name == other.name]
    assert RTM_DELLINK in kinds


def test_delete_in_one_netns(lab: Lab) -> None:
    here = lab.netns()
    wire = lab.pair(here, here)
    wire.up()
    here.ip("link del vb")
    wire.a.wait_gone(DEATH_S)


@pytest.mark.parametrize("state", ["down", "up"])
@pytest.mark.parametrize("which", ["near", "far"])
def test_netns_death_takes_both(wire: Wire, which: str, state: str) -> None:
    """The pair goes; the other namespace lives on."""
    if state == "up":
        wire.up()
    doomed, other = (wire.a, wire.b) if which == "near" else (wire.b, wire.a)
    other.netns.ip("link add name br0 type bridge")
    doomed.netns.delete()
    other.wait_gone(DEATH_S)
    assert other.netns.names() == {"br0"}


def test_netns_death_after_a_move(lab: Lab, live: Wire) -> None:
    """Where an end was born does not matter, only where it is."""
    born = live.b.netns
    live.b.set(f"netns {lab.netns('c').name}")
    live.b.netns = lab.netnses[-1]
    born.delete()
    live.b.up()
    live.wait_carrier()
    live.b.netns.delete()
    live.a.wait_gone(DEATH_S)


def test_nothing_pins_a_netns(live: Wire) -> None:
    """The namespace itself dies: a canary's other half, which dies with it, dies too.

    The canary is the kernel's own, whatever makes the pair.
    """
    live.a.netns.ip(f"link add canary type veth peer name sentinel netns {live.b.netns.name}")
    live.a.netns.delete()
    wait_until(lambda: live.b.netns.names() == set(), DEATH_S, "a's end, and what only a's death removes")


def test_both_netns_die_at_once(lab: Lab, live: Wire) -> None:
    live.a.netns.delete()
    live.b.netns.delete()
    wait_until(lambda: not lab.backend.leftovers(), DEATH_S, "nothing left")


def test_name_is_free_at_once(lab: Lab) -> None:
    """Made and deleted, again and again, under the same names."""
    a, b = lab.netns("a"), lab.netns("b")
    for n in range(10):
        wire = lab.pair(a, b)
        (wire.a if n % 2 else wire.b).set("up")
        lab.backend.dellink("va" if n % 3 else "vb", (a if n % 3 else b).name)
        wait_until(lambda: not a.names() | b.names(), DEATH_S, "both gone")


def test_deleted_under_traffic(live: Wire) -> None:
    """Frames on their way do not keep an end alive."""
    with live.a.packet() as sender:

        def refused() -> bool:
            try:
                for n in range(100):
                    sender.send(sized(1000, n))
            except OSError as error:
                return error.errno != errno.ENOBUFS  # a full queue is no death
            return False

        assert not refused()
        live.b.netns.ip("link del vb")
        wait_until(refused, what="va refuses frames")
    live.a.wait_gone(DEATH_S)


def test_second_pair_between_the_same_netns_is_untouched(lab: Lab, live: Wire) -> None:
    lab.backend.newlink(
        PairSpec(name="vc", netns=live.a.netns.name, up=True, peer=LinkSpec(name="vd", netns=live.b.netns.name))
    )
    live.b.netns.ip("link del vb")
    live.a.wait_gone(DEATH_S)
    other = Wire(End(live.a.netns, "vc"), End(live.b.netns, "vd"))
    other.up()
    near, far = other.addresses()
    ping(other.a.netns, near, other.b.netns, far)
