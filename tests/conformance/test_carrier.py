"""The carrier: on at both ends exactly while both are up, whoever went up or down first.

    a: va ===== vb :b

Kernel: veth_open(), veth_close(); netif_carrier_on() counts every change.
"""

from __future__ import annotations

import errno
import itertools
import os

import pytest

from tests.lib.lab import End, Lab, Wire
from tests.lib.rtnl import IFF_LOWER_UP, IFF_RUNNING, Link
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec

ORDERS = {  # who goes up (+) or down (-), in turn
    "first-down-first": "a+ b+ a- b-",
    "last-down-first": "a+ b+ b- a-",
    "near-flaps": "b+ a+ a- a+ a- b-",
    "far-flaps": "a+ b+ b- b+ b- a-",
    "alternating": "a+ b+ a- a+ b- b+ a- b- b+ a+ b- a-",
}


def carrier_is(wire: Wire, on: bool) -> None:
    """Wait until carrier, flags and operstate of both ends say so, each as an end in its state does."""
    for end in (wire.a, wire.b):
        end.wait(lambda link: told(link, on), what=f"carrier {on}")


def told(link: Link, on: bool) -> bool:
    """Return whether all that a link says of its carrier agrees with on; operstate follows a moment later."""
    return (
        link.carrier is on
        and bool(link.flags & IFF_LOWER_UP) is on
        and bool(link.flags & IFF_RUNNING) is on
        and link.operstate == ("UP" if on else "DOWN")
    )


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_every_order(wire: Wire, order: str) -> None:
    state = {"a": False, "b": False}
    ends = {"a": wire.a, "b": wire.b}
    carrier_is(wire, on=False)
    for step in order.split():
        who = step[0]
        state[who] = step[1] == "+"
        ends[who].set("up" if state[who] else "down")
        carrier_is(wire, on=all(state.values()))
        assert {name: end.link.up for name, end in ends.items()} == state


def test_operstate_in_one_netns(lab: Lab) -> None:
    """A veth whose peer is at hand and has no carrier is LOWERLAYERDOWN: default_operstate()."""
    here = lab.netns()
    wire = lab.pair(here, here)
    word = "DOWN" if lab.backend.differs("lowerlayerdown-is-down") else "LOWERLAYERDOWN"
    wire.a.up()
    wire.a.wait(lambda link: link.operstate == word, what=word)
    wire.b.up()
    carrier_is(wire, on=True)
    wire.a.down()
    wire.b.wait(lambda link: link.operstate == word, what=word)


def changes(wire: Wire) -> list[tuple[int, int, int]]:
    """Return (carrier_changes, ups, downs) of both ends."""
    return [(link.carrier_changes, link.carrier_ups, link.carrier_downs) for link in (wire.a.link, wire.b.link)]


def test_carrier_changes_at_birth(wire: Wire) -> None:
    """The first change is the loss that newlink itself brings about."""
    births = changes(wire)
    assert births == [(1, 0, 1), (1, 0, 1)]


def test_carrier_changes_after_each_step(wire: Wire) -> None:
    """Each on and each off counts once at both ends."""
    base = changes(wire)
    count = ups = downs = 0
    state = [False, False]
    ends = (wire.a, wire.b)
    for who in (0, 1, 0, 0, 1, 1, 0, 1, 0, 1):  # who flips
        was = all(state)
        state[who] = not state[who]
        ends[who].set("up" if state[who] else "down")
        carrier_is(wire, on=all(state))
        ups += all(state) and not was
        downs += was and not all(state)
        count = ups + downs
        assert changes(wire) == [(n + count, u + ups, d + downs) for n, u, d in base]
    assert (ups, downs) == (4, 3)


@pytest.mark.parametrize("flaps", [1, 20])
def test_carrier_changes_of_fast_flaps(live: Wire, flaps: int) -> None:
    """Twenty flaps in one breath are twenty, not one: nothing is collapsed."""
    base = changes(live)
    live.b.set(*itertools.chain(*[("down", "up")] * flaps))
    wanted = [(count + 2 * flaps, ups + flaps, downs + flaps) for count, ups, downs in base]
    wait_until(lambda: changes(live) == wanted, what=f"{wanted}")
    live.wait_carrier()


def test_flaps_on_both_sides(live: Wire) -> None:
    """Whatever the interleaving, it ends with a carrier, and the ends agree on every change."""
    for _ in range(10):
        live.a.set("down")
        live.b.set("down", "up")
        live.a.set("up")
    wait_until(lambda: [count for count, _, _ in changes(live)] == [1 + 1 + 2 * 10] * 2, what="22 changes")
    live.wait_carrier()


def test_up_again_is_nothing(live: Wire) -> None:
    base = changes(live)
    live.a.set("up", "up")
    live.b.set("up")
    live.wait_carrier()
    assert changes(live) == base


def test_carrier_event_reaches_a_listener(wire: Wire) -> None:
    """A listener hears of the carrier that its peer's going up brings."""
    wire.a.up()
    with wire.a.listen() as events:
        wire.b.up()
        wire.a.wait_event(events, lambda link: link.carrier and link.operstate == "UP")


def test_users_own_carrier_flip(lab: Lab, live: Wire) -> None:
    """veth knows no such thing (EOPNOTSUPP); a TAP lets it happen, and vethd puts the carrier back."""
    if not lab.backend.differs("carrier-flip-is-undone"):
        with pytest.raises(AssertionError, match=os.strerror(errno.EOPNOTSUPP)):
            live.a.set("carrier off")
    else:
        live.a.set("carrier off")
    live.wait_carrier()


def test_many_pairs_do_not_touch_each_other(lab: Lab) -> None:
    a, b = lab.netns("a"), lab.netns("b")
    wires = [lab.pair(a, b, LinkSpec(name=f"va{n}"), LinkSpec(name=f"vb{n}")) for n in range(8)]
    for wire in wires[::2]:
        wire.a.up()
        wire.b.up()
    for n, wire in enumerate(wires):
        carrier_is(wire, on=n % 2 == 0)


def test_moved_end(lab: Lab, live: Wire) -> None:
    """The moved end goes down, its peer loses the carrier; set up again, all is as before."""
    elsewhere = lab.netns("c")
    live.b.set(f"netns {elsewhere.name}")
    moved = Wire(live.a, End(elsewhere, "vb"))
    carrier_is(moved, on=False)
    assert (moved.a.link.up, moved.b.link.up) == (True, False)
    moved.b.up()
    carrier_is(moved, on=True)


def test_every_carrier_is_an_event(live: Wire) -> None:
    """IPv6, bridges and scripts act upon events."""
    with live.a.listen() as events:
        for _ in range(5):
            live.b.down()
            live.a.wait_event(events, lambda link: not link.carrier)
            live.b.up()
            live.a.wait_event(events, lambda link: link.carrier)
