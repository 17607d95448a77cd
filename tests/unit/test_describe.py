"""What is said of a link whose device is not found just now: no counter goes back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from vethd.datapath.engine import Counters
from vethd.kernel.births import Place
from vethd.kernel.linkstate import LinkCounters, LinkState
from vethd.kernel.tun import Tap
from vethd.model.state import Side
from vethd.pairs.describe import link_stats
from vethd.pairs.link import Link
from vethd.pairs.pair import LivePair

KEY = (1, 2)


def state(packets: int, dropped: int) -> LinkState:
    fields: dict[str, Any] = dict.fromkeys(LinkState._fields, 0)
    counters = LinkCounters(packets, packets, 100 * packets, 100 * packets, 0, dropped)
    return LinkState(**fields | {"name": "va", "counters": counters, "carrier_changes": packets, "altnames": ()})


def link() -> Link:
    return Link(cast("Tap", None), Place(KEY, 7, state(9, 0)), "red")


def test_a_link_that_is_not_found_has_what_was_told_last() -> None:
    links = (link(), link())
    fake = SimpleNamespace(
        id="p1", links=links, carrier=True, dry=lambda _side: True, counters=lambda _side: Counters(24, 2400, 24, 2400)
    )
    pair = cast("LivePair", fake)
    assert link_stats(pair, Side.NEAR, {}).rx_packets == 9
    told = link_stats(pair, Side.NEAR, {KEY: state(24, 5)})
    assert (told.rx_packets, told.tx_dropped, told.carrier_changes) == (24, 5, 24)
    links[0].update(state(20, 4))  # news that were on their way before
    assert link_stats(pair, Side.NEAR, {}) == told
