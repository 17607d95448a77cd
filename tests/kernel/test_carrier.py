"""The carrier of a TAP: TUNSETCARRIER, what it shows, and who else can touch it.

Born with IFF_NO_CARRIER and raised by TUNSETCARRIER, a TAP walks through the same operstates as a veth. The carrier
itself changes at once, and each real change counts once in carrier_changes, up and down apart. The link *events*
of a TAP lag: they are held back to one a second. And where veth refuses it, rtnetlink lets any admin flip it.
"""

from __future__ import annotations

import errno

from tests.kernel.lib import House, Net
from tests.kernel.tap import BASE, refusal
from tests.lib import rtnl
from tests.lib.frames import sized
from tests.lib.wait import wait_until


def test_born_without_a_carrier(house: House) -> None:
    net = house.net()
    house.tap(net, "a")
    born = net.link("a")
    assert (born.carrier, born.lower_up, born.operstate, born.carrier_changes) == (False, False, "DOWN", 1)
    net.up("a")
    up = net.link("a")
    assert (up.up, up.carrier, up.lower_up, up.operstate) == (True, False, False, "DOWN")


def test_without_the_flag_born_with_a_carrier(house: House) -> None:
    """And then its operstate says nothing at all, which a veth's never does."""
    net = house.net()
    house.tap(net, "a", BASE)
    net.up("a")
    assert (net.link("a").carrier, net.link("a").operstate) == (True, "UNKNOWN")


def test_raised_and_lowered(house: House) -> None:
    net = house.net()
    tap = house.tap(net, "a")
    net.up("a")

    tap.carrier(True)
    assert net.link("a").carrier  # at once; what follows is the link watch's work
    assert wait_until(lambda: net.link("a").operstate == "UP")
    assert net.link("a").lower_up

    tap.carrier(False)
    assert not net.link("a").carrier
    assert wait_until(lambda: net.link("a").operstate == "DOWN")  # rate-limited: up to a second


def test_each_change_counts_once_and_no_repetition_does(house: House) -> None:
    net = house.net()
    tap = house.tap(net, "a")
    net.up("a")
    start = net.link("a")
    for on in (False, True, True, True, False, False, True):
        tap.carrier(on)
    end = net.link("a")
    ups, downs = end.carrier_ups - start.carrier_ups, end.carrier_downs - start.carrier_downs
    assert (ups, downs, end.carrier_changes - start.carrier_changes) == (2, 1, 3)


def test_settable_while_down_and_untouched_by_up_and_down(house: House) -> None:
    net = house.net()
    tap = house.tap(net, "a")
    tap.carrier(True)
    assert net.link("a").carrier_ups == 1
    net.up("a")
    net.down("a")
    assert net.link("a").carrier_changes == 2
    net.up("a")
    assert net.link("a").carrier
    assert net.link("a").carrier_changes == 2


def test_an_admin_can_flip_it(house: House) -> None:
    """`ip link set a carrier off`: a daemon must expect it, and that its own word undoes it."""
    net = house.net()
    tap = house.live_tap(net, "a")
    net.set("a", (rtnl.IFLA_CARRIER, b"\0"))
    assert not net.link("a").carrier
    tap.carrier(True)
    assert net.link("a").carrier


def test_an_admin_cannot_flip_veths(house: House) -> None:
    net = house.net()
    new_veth(net, "a")
    with refusal(errno.EOPNOTSUPP):
        net.set("a", (rtnl.IFLA_CARRIER, b"\0"))


def test_veths_counts_are_the_measure(house: House) -> None:
    """Each end of a veth is born with one change, and both ends count every rise and fall alike."""
    net = house.net()
    new_veth(net, "a", "b")
    both = ("a", "b")
    assert [net.link(name).carrier_changes for name in both] == [1, 1]
    net.up("a")
    assert [net.link(name).carrier_changes for name in both] == [1, 1]
    net.up("b")
    assert [net.link(name).carrier_changes for name in both] == [2, 2]
    net.down("a")
    net.down("b")
    assert [net.link(name).carrier_changes for name in both] == [3, 3]


def test_off_stops_the_sender_only_when_the_link_watch_has_seen_it(house: House) -> None:
    """Up to a second after TUNSETCARRIER frames still enter the queue; veth, which is urgent, has no such second.

    Asking for the link (RTM_GETLINK, or the link state by ethtool) makes the link watch look at once. So whoever
    takes a carrier away asks afterwards; and whoever reads the queue counts on frames sent without a carrier.
    """
    net = house.net()
    tap = house.live_tap(net, "a")
    tries = 0
    with net.packet("a") as sock:

        def sent_without() -> bool:
            """Try again where the link watch, which may come at any time in that second, came in between."""
            nonlocal tries
            tap.carrier(True)
            house.wait_sending(net, "a")
            tap.carrier(False)
            sock.send(sized(60, seed=1))
            tries += 1
            return tap.drain() == [sized(60, seed=1)]

        wait_until(sent_without, what="a frame in the queue, without a carrier")
        assert net.link("a").operstate == "DOWN"  # the asking
        sock.send(sized(60, seed=2))
        assert tap.drain() == []
    stats = net.link("a").stats
    assert (stats.tx_packets, stats.tx_dropped) == (1, tries)


def test_on_lets_the_sender_through_once_asked(house: House) -> None:
    """The other way round the link watch hurries, and asking is quicker still."""
    net = house.net()
    tap = house.tap(net, "a")
    net.up("a")
    with net.packet("a") as sock:
        for seed in range(5):
            tap.carrier(True)
            assert net.link("a").operstate == "UP"
            sock.send(sized(60, seed))
            assert tap.drain() == [sized(60, seed)]
            tap.carrier(False)
            assert net.link("a").operstate == "DOWN"


def test_events_are_held_back_and_merged(house: House) -> None:
    """Within the second after one carrier event, flips make none of their own; the state that lasts is told."""
    net = house.net()
    tap = house.live_tap(net, "a")
    events = house.listen(net)
    for on in (False, True) * 5:
        tap.carrier(on)
    tap.carrier(False)

    def told() -> bool:
        seen.extend(link for _, link in events.events())
        return any((link.operstate, link.carrier_changes) == ("DOWN", 13) for link in seen)

    seen: list[rtnl.Link] = []
    wait_until(told, what="the event of the carrier's end")
    assert len(seen) < 11  # as many as there were changes


def new_veth(net: Net, *names: str) -> None:
    """Make a pair of the kernel's."""
    peer = f" type veth peer name {names[1]}" if len(names) > 1 else " type veth"
    net.ip(f"link add name {names[0]}{peer}")
