"""A living pair: the state machine of model.state, with hands.

Theory of operation. News of an end come from two places: rtnetlink (everything but death by a dying namespace) and the
engine (death). They are fed to the state machine in order, on the loop, and its effects are carried out at once where
they are a memory access (gates, limits); what may block (carrier, noqueue, finding a moved device, publishing the
peer's name) goes to the workers, in order. A pair that lost one end ends itself: it tells its context, once.
"""

from __future__ import annotations

import asyncio
from typing import Any

from vethd.datapath.engine import Counters, Wire, plus
from vethd.kernel.glance import Glance
from vethd.kernel.linkstate import LinkState
from vethd.memory.resume import caught_up, resumed_counters
from vethd.memory.takeover import HeldPair
from vethd.model.drops import Drop
from vethd.model.record import EndRecord
from vethd.model.spec import PairSpec
from vethd.model.state import (
    DeleteLink,
    Effect,
    End,
    Event,
    Kind,
    PairState,
    SetCarrier,
    SetGate,
    SetLimit,
    Side,
)
from vethd.pairs.context import Context
from vethd.pairs.link import Link
from vethd.pairs.publish import publish

Gates = tuple[Drop | None, Drop | None]


class LivePair:
    """Two devices and the wire between them."""

    def __init__(self, pair_id: str, links: tuple[Link, Link], context: Context[LivePair]) -> None:
        """Take over the links; nothing moves before start()."""
        self.id = pair_id
        self.links = links
        self.wire: Wire | None = None
        self._context = context
        self._state = PairState()
        self._ending = False
        self._moving = 0
        self._arrived = asyncio.Event()
        self._arrived.set()
        self._base = [Counters(), Counters()]

    def start(self, spec: PairSpec) -> None:
        """Tie the two ends together, newly made: listen to their news, and forward."""
        self.wire = self._join(spec)
        for side in (Side.FAR, Side.NEAR):
            self._context.desk.placed(self.links[side].place.key, self, side)
            self._feed(Event(Kind.CREATED, side))
        for side in Side:
            self._feed(Event(Kind.MTU, side, self.links[side].state.mtu))
            self._catch_up(side, self.links[side].state)
            self._context.spawn(self._follow(side, placed=True))
        self._learn_masters()

    def resume(self, left: tuple[EndRecord, EndRecord], spec: PairSpec, held: HeldPair) -> None:
        """Go on where a predecessor left off: the wire runs already, no carrier changes."""
        self._state = PairState([End.UP if link.state.up else End.DOWN for link in self.links])
        self.wire = held.wire
        self._tune(self.wire, spec)
        for side in Side:
            self._base[side] = resumed_counters(left[side], held.seen[side], held.seen[side.other])
            self._context.desk.placed(self.links[side].place.key, self, side)
            self.wire.set_gate(side, self._state.gate(side))  # an end went up or down since
            self._feed(Event(Kind.MTU, side, self.links[side].state.mtu))
            self._feed(Event(Kind.CARRIER, side, int(self.links[side].state.carrier)))
        for side in Side:
            self.links[side].calibrate(self.counters(side).read if self.dry(side) else None)
            self._context.spawn(self._noqueue(side))  # it may have moved while nobody looked
        self._learn_masters()
        self._context.spawn(self._publish_both())
        held.hand_over(self._died)

    def halt(self) -> None:
        """Stop reading: what the ends send waits in the devices, for a successor or for go_on()."""
        if self.wire is not None:
            self.wire.close()
            self._base = [self.counters(side) for side in Side]
            self.wire = None

    def go_on(self, spec: PairSpec, seen: tuple[Glance, Glance]) -> None:
        """Forward again after halt(), and catch up with what could not be carried out meanwhile; seen is just now."""
        if self._ending:
            return
        if gone := [side for side in Side if self._state.ends[side] is End.ABSENT]:
            self._context.ended(self, f"{self.links[gone[0]].state.name} is gone")
            return
        self._base = [caught_up(self._base[side], seen[side]) for side in Side]
        self.wire = self._join(spec, (self._state.gate(Side.NEAR), self._state.gate(Side.FAR)))
        for side in Side:
            self._feed(Event(Kind.MTU, side, self.links[side].state.mtu))
        self._context.workers.set_carriers(self.links, on=self.carrier)
        for side in Side:
            self.links[side].calibrate(self.counters(side).read if self.dry(side) else None)

    @property
    def carrier(self) -> bool:
        """Whether both ends have their carrier."""
        return self._state.carrier

    def counters(self, side: Side) -> Counters:
        """Read the engine's counters of what the end at side sent, predecessors' included."""
        return plus(self._base[side], self.wire.counters(side)) if self.wire is not None else self._base[side]

    def dry(self, side: Side) -> bool:
        """Forward what the end at side has queued; return whether nothing is left."""
        return self.wire.dry(side) if self.wire is not None and not self._ending else True

    def tune(self, spec: PairSpec) -> None:
        """Have the wire do as spec and the context's tuning say now."""
        if self.wire is not None and not self._ending:
            self._tune(self.wire, spec)

    def alias_said(self, side: Side, alias: str) -> None:
        """Leave the alias to the user who set it, or (alias "") write the peer there again."""
        link = self.links[side]
        link.own_alias = bool(alias)
        if not alias:
            self._context.spawn(self._publish(side))

    def news(self, side: Side, state: LinkState) -> None:
        """Take one message of rtnetlink about the end at side, in its order."""
        link = self.links[side]
        link.news += 1
        if not state.deleted:
            self._learn(side, state)
            return
        self._context.desk.left(link.place.key, self)
        if state.new_nsid is None:
            self._gone(side)
        else:
            self._feed(Event(Kind.MOVED, side))
            self._moving += 1
            self._arrived.clear()
            self._context.spawn(self._arrive(side))

    def _learn(self, side: Side, state: LinkState) -> None:
        """Act on what differs from what we knew of the end at side."""
        link = self.links[side]
        before = link.state
        link.update(state)
        if state.name != before.name:
            self._tell("link_renamed", side, f"{before.name} -> {state.name}")
            self._context.spawn(self._publish_both())
        elif (state.address, state.txqueuelen, state.master) != (before.address, before.txqueuelen, before.master):
            self._tell("link_changed", side)
        if state.master != before.master:
            self._context.spawn(self.learn_master(side))
        if state.mtu != before.mtu:
            self._feed(Event(Kind.MTU, side, state.mtu))
            self._tell("link_changed", side, f"mtu {state.mtu}")
        self._catch_up(side, state)

    def end(self) -> None:
        """Stop forwarding and listening; the devices are the caller's to bury. Twice is once."""
        self._ending = True
        self._arrived.set()
        for link in self.links:
            self._context.desk.left(link.place.key, self)
        if self.wire is not None:
            self.wire.close()

    def _join(self, spec: PairSpec, gates: Gates = (Drop.NO_CARRIER, Drop.NO_CARRIER)) -> Wire:
        near, far = (link.tap for link in self.links)
        wire = self._context.tuning.engine.join((near.fds, far.fds), near.vnet_hdr_len, self._died, gates)
        self._tune(wire, spec)
        return wire

    def _tune(self, wire: Wire, spec: PairSpec) -> None:
        self._context.tuning.tune(wire, spec, uso=all(link.tap.uso for link in self.links))

    def _learn_masters(self) -> None:
        for side in Side:
            if self.links[side].state.master:
                self._context.spawn(self.learn_master(side))

    def _catch_up(self, side: Side, state: LinkState) -> None:
        was_up, had_carrier = self._state.ends[side] is End.UP, self.carrier
        self._feed(Event(Kind.ADMIN_UP if state.up else Kind.ADMIN_DOWN, side))
        if self.carrier == had_carrier:  # else these news are older than what is being set now
            self._feed(Event(Kind.CARRIER, side, int(state.carrier)))
        if state.up != was_up:
            self._tell("link_up" if state.up else "link_down", side)

    def _died(self, side: int) -> None:
        """Hear from the engine that a device is gone."""
        if not self._ending:
            self._gone(Side(side))

    def _gone(self, side: Side) -> None:
        self._tell("link_gone", side)
        self._feed(Event(Kind.GONE, side))

    def _feed(self, event: Event) -> None:
        had_carrier = self.carrier
        for effect in self._state.feed(event):
            self._carry_out(effect)
        if self.carrier != had_carrier and not self._ending:
            self._context.hub.tell("carrier_on" if self.carrier else "carrier_off", pair=self.id)

    def _carry_out(self, effect: Effect) -> None:
        if self.wire is None or self._ending:  # the fds may be somebody else's by now
            return
        match effect:
            case SetGate(side, gate):
                self.wire.set_gate(side, gate)
            case SetCarrier(sides, on):
                self._context.workers.set_carriers([self.links[side] for side in sides], on=on)
            case SetLimit(side, limit):
                self.links[side].set_limit(limit)
                self.wire.set_limit(side, limit)
            case DeleteLink(side):
                self._context.ended(self, f"{self.links[side.other].state.name} is gone")

    async def arrived(self) -> None:
        """Wait until we know where every end is that is known to have moved."""
        await self._arrived.wait()

    async def _arrive(self, side: Side) -> None:
        try:
            await self._follow(side)
        finally:
            self._moving -= 1
            if not self._moving:
                self._arrived.set()

    async def _follow(self, side: Side, *, placed: bool = False) -> None:
        """Find the device that moved, and take up its news where it is; with placed they are taken up already.

        What happens between our look at a device and our first hearing of it is heard by nobody. So look again once
        its news reach us: it is still there, and what we see then holds, unless news have come since, which are newer.
        The qdisc is set wherever the device is found, and before its news, which may bring the carrier: what is sent
        while the kernel changes it is lost.
        """
        link = self.links[side]
        while True:
            news = link.news
            found = await self._context.workers.locate(link.tap)
            if found is None or self._ending:
                return
            place, label = found
            if placed and place.key == link.place.key:
                break
            if placed:  # it moved on, unheard
                self._feed(Event(Kind.MOVED, side))
            await self._noqueue(side)
            if self._ending:
                return
            self._context.desk.left(link.place.key, self)  # another of us may have followed it there since
            link.place, link.label = place._replace(state=link.state), label
            self._context.desk.placed(place.key, self, side)
            self._tell("link_moved", side)
            placed = True
        if link.news == news:
            self._learn(side, place.state)
        await self._publish(side.other)

    async def learn_master(self, side: Side) -> None:
        """Find out what the bridge is called that the end at side is a port of."""
        link, workers = self.links[side], self._context.workers
        link.master = await workers.insist(workers.nursery.name_of, link.tap, link.state.master) or ""

    async def _noqueue(self, side: Side) -> None:
        await self._context.workers.insist(self._context.workers.nursery.noqueue, self.links[side].tap)

    async def _publish_both(self) -> None:
        for side in Side:
            await self._publish(side)

    async def _publish(self, side: Side) -> None:
        if not self._ending:
            link, peer = self.links[side], self.links[side.other]
            await self._context.workers.insist(publish, self._context.workers.nursery, link, peer)

    def _tell(self, event: Any, side: Side, detail: str = "") -> None:
        link = self.links[side]
        self._context.hub.tell(event, pair=self.id, link=link.state.name, netns=link.label, detail=detail)
