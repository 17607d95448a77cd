"""The messages about a pair's ends while the pair begins: none is lost without a later look at the device."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from tests.unit.test_follow import Daemon, state
from vethd.datapath.engine import Counters
from vethd.kernel.glance import Glance
from vethd.kernel.watcher import LinkKey
from vethd.memory.takeover import HeldPair
from vethd.model.drops import DROPS
from vethd.model.record import EndRecord
from vethd.model.spec import PairSpec
from vethd.model.state import Side
from vethd.pairs.pair import LivePair

KEYS: tuple[LinkKey, LinkKey] = ((1, 2), (0, 9))


class Beginning(Daemon):
    """A pair with an engine, which has not begun; at the second end's placed(), the first end's message arrives."""

    def __init__(self, message: dict[str, Any] | None = None) -> None:
        super().__init__(KEYS[Side.NEAR])
        self.index.clear()
        self.message = message
        self.ended: list[str] = []
        self.engine = MagicMock()
        self.wire.counters.return_value = Counters()
        context = cast("Any", self.pair)._context
        context.tuning = MagicMock(engine=self.engine, ring=lambda _end: self.pair.links[0].ring)
        context.changed = context.workers.set_carriers = MagicMock()
        context.workers.nursery.name_of = "name_of"
        context.ended = lambda _pair, reason: self.ended.append(reason)
        for link in self.pair.links:
            link.tap = MagicMock()

    @property
    def wire(self) -> MagicMock:
        return cast("MagicMock", self.engine.join.return_value)

    def placed(self, key: LinkKey, pair: LivePair, side: Side) -> None:
        if self.index and self.message is not None:
            pair.news(side.other, state(**self.message))
        super().placed(key, pair, side)

    async def look(self) -> None:
        """Let each end be found where it is."""
        for key in KEYS:
            await self.answer(key)
        await asyncio.gather(*self.tasks)


async def test_an_end_that_is_deleted_while_the_other_is_placed_ends_the_pair() -> None:
    daemon = Beginning({"deleted": True})
    daemon.pair.start(PairSpec())
    assert len(daemon.ended) == 1
    await daemon.look()


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_pair_looks_at_its_ends_after_they_are_placed(resumed: bool) -> None:
    """A message from between the first look at a device and placed() was not delivered."""
    daemon = Beginning()
    if resumed:
        ends = (EndRecord(fds=["a"], drops=[0] * DROPS), EndRecord(fds=["b"], drops=[0] * DROPS))
        seen = (Glance(up=False, mtu=0, tx_packets=0, tx_bytes=0, rx_bytes=0),) * 2
        held = SimpleNamespace(wire=daemon.wire, seen=seen, hand_over=lambda _died: None)
        daemon.pair.resume(ends, PairSpec(), cast("HeldPair", held))
    else:
        daemon.pair.start(PairSpec())
    await asyncio.wait_for(daemon.look(), 5)
    assert [link.state.carrier_changes for link in daemon.pair.links] == [2, 2]  # those that locate() reports
