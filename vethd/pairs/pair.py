"""A living pair: feed events to the state machine of model.state, and carry out its effects.

Theory of operation. Events of an end come from two sources: rtnetlink (all but the death of a device with its
namespace) and the engine (death). They are fed to the state machine in order, on the loop. Effects that are a memory
access (gates, limits) are carried out at once. Effects that may block (carrier, noqueue, finding a moved device) go to
the workers, in order. A pair that lost one end calls its context's ended().
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
from vethd.pairs.rings import Rings

Gates = tuple[Drop | None, Drop | None]


class LivePair:
    """Two devices and the wire between them."""

    def __init__(self, pair_id: str, links: tuple[Link, Link], context: Context[LivePair]) -> None:
        """Take over the links; no frame is forwarded before start() or resume()."""
        self.id = pair_id
        self.links = links
        self.wire: Wire | None = None
        self.stopped: set[Callable[[], None]] = set()  # called when the wire is closed
        self._context = context
        self._state = PairState()
        self._ending = False
        self._moving = 0
        self._arrived = asyncio.Event()
        self._arrived.set()
        self._base = [Counters(), Counters()]
        self.rings = Rings(links, context)

    def start(self, spec: PairSpec) -> None:
        """Join two newly made ends: subscribe to their rtnetlink messages, and forward."""
        self.wire = self._join(spec)
        for side in (Side.FAR, Side.NEAR):  # first: placed() may deliver a message that an end is gone
            self._feed(Event(Kind.CREATED, side))
        for side in Side:
            self._context.desk.placed(self.links[side].place.key, self, side)
        for side in Side:
            self._feed(Event(Kind.MTU, side, self.links[side].state.mtu))
            self._catch_up(side, self.links[side].state)
            self._context.spawn(self.look_again(side))

    def resume(self, left: tuple[EndRecord, EndRecord], spec: PairSpec, held: HeldPair) -> None:
        """Continue a predecessor's pair: the wire already runs, and no carrier changes."""
        self._state = PairState([End.UP if link.state.up else End.DOWN for link in self.links])
        self.wire = held.wire
        self._tune(self.wire, spec)
        for side in Side:
            self._base[side] = resumed_counters(left[side], held.seen[side], held.seen[side.other])
            self._context.desk.placed(self.links[side].place.key, self, side)
            self.wire.set_gate(side, self._state.gate(side))  # an end may have gone up or down since
            self._feed(Event(Kind.MTU, side, self.links[side].state.mtu))
            self._feed(Event(Kind.CARRIER, side, int(self.links[side].state.carrier)))
        for side in Side:
            self.links[side].calibrate(self.counters(side).read if self.dry(side) else None)
            self._context.spawn(self._noqueue(side))  # it may have moved while no daemon ran
            self._context.spawn(self.look_again(side))  # messages between the look at it and placed() are lost
        self.rings.tune(spec)
        held.hand_over(self._died)

    def halt(self) -> None:
        """Stop reading. Frames that the ends send wait in the devices, for a successor or for go_on()."""
        for stopped in self.stopped:
            stopped()
        if self.wire is not None:
            self.wire.close()
            self._base = [self.counters(side) for side in Side]
            self.wire = None

    def go_on(self, spec: PairSpec, seen: tuple[Glance, Glance]) -> None:
        """Forward again after halt(), and carry out the effects omitted meanwhile; seen is the devices' state now."""
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
        """Return the engine's counters of the frames that the end at side sent, those of predecessors included."""
        return plus(self._base[side], self.wire.counters(side)) if self.wire is not None else self._base[side]

    @property
    def forwarding(self) -> Wire | None:
        """The wire, unless it is closed."""
        return None if self._ending else self.wire

    def dry(self, side: Side) -> bool:
        """Forward the frames that the end at side has queued; return whether its queue is empty."""
        return self.wire.dry(side) if self.wire is not None and not self._ending else True

    def tune(self, spec: PairSpec) -> None:
        """Set the wire and the rings to the present values of spec and of the context's tuning."""
        if self.wire is not None and not self._ending:
            self._tune(self.wire, spec)
            self.rings.tune(spec)

    def news(self, side: Side, state: LinkState) -> None:
        """Process one rtnetlink message about the end at side; call in the order of the messages."""
        link = self.links[side]
        link.news += 1
        if not state.deleted:
            self._learn(side, state)
            return
        self._context.desk.left(link.place.key, self, side)
        if state.new_nsid is None:
            self._gone(side)
        else:
            self._feed(Event(Kind.MOVED, side))
            self._moving += 1
            self._arrived.clear()
            self._context.spawn(self._arrive(side))

    def _learn(self, side: Side, state: LinkState) -> None:
        """Store the new state of the end at side, and act on each difference from the old state."""
        link = self.links[side]
        before = link.state
        link.update(state)
        if state.name != before.name:
            self._tell("link_renamed", side, f"{before.name} -> {state.name}")
        elif (state.address, state.txqueuelen, state.master) != (before.address, before.txqueuelen, before.master):
            self._tell("link_changed", side)
        if self.rings.learn(side, before, state):
            self._context.changed(self)
        if state.master != before.master:
            self._context.spawn(self.learn_master(side))
        if state.mtu != before.mtu:
            self._feed(Event(Kind.MTU, side, state.mtu))
            self._tell("link_changed", side, f"mtu {state.mtu}")
        self._catch_up(side, state)

    def end(self) -> None:
        """Stop forwarding and listening; the caller deletes the devices. A second call does nothing."""
        self._ending = True
        self._arrived.set()
        for side in Side:
            self._context.desk.left(self.links[side].place.key, self, side)
        for stopped in self.stopped:
            stopped()
        if self.wire is not None:
            self.wire.close()

    def _join(self, spec: PairSpec, gates: Gates = (Drop.NO_CARRIER, Drop.NO_CARRIER)) -> Wire:
        near, far = (link.tap for link in self.links)
        fds, urgent = (near.fds, far.fds), spec.urgent_queues
        wire = self._context.tuning.engine.join(fds, near.vnet_hdr_len, self._died, gates, urgent)
        self._tune(wire, spec)
        return wire

    def _tune(self, wire: Wire, spec: PairSpec) -> None:
        self._context.tuning.tune(wire, spec, uso=all(link.tap.uso for link in self.links))

    def _catch_up(self, side: Side, state: LinkState) -> None:
        was_up, had_carrier = self._state.ends[side] is End.UP, self.carrier
        self._feed(Event(Kind.ADMIN_UP if state.up else Kind.ADMIN_DOWN, side))
        if self.carrier == had_carrier:  # otherwise this message is older than the carrier that is being set now
            self._feed(Event(Kind.CARRIER, side, int(state.carrier)))
        if state.up != was_up:
            self._tell("link_up" if state.up else "link_down", side)

    def _died(self, side: int) -> None:
        """Handle the engine's report that a device is gone."""
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
        if self.wire is None or self._ending:  # the fd numbers may refer to other files by now
            return
        match effect:
            case SetGate(side, gate):
                self.wire.set_gate(side, gate)
            case SetCarrier(sides, on, up):
                announce = self.links[up] if up is not None else None
                self._context.workers.set_carriers([self.links[side] for side in sides], on=on, announce=announce)
            case SetLimit(side, limit):
                self.links[side].set_limit(limit)
                self.wire.set_limit(side, limit)
            case DeleteLink(side):
                self._context.ended(self, f"{self.links[side.other].state.name} is gone")

    async def arrived(self) -> None:
        """Wait until every end that is known to have moved is found."""
        await self._arrived.wait()

    async def _arrive(self, side: Side) -> None:
        try:
            await self._follow(side)
        finally:
            self._moving -= 1
            if not self._moving:
                self._arrived.set()

    async def _follow(self, side: Side, *, placed: bool = False) -> None:
        """Find the device that moved, and subscribe to its messages there; placed means that this is already done.

        Messages between locating a device and the subscription are lost. So the device is located again after the
        subscription: if it is still there, its state then is valid, unless a message has arrived since. The last such
        message is as new or newer, because all messages that were sent until then have been delivered.
        noqueue is set wherever the device is found, and before the subscription, because the first message may bring
        the carrier: frames that are sent while the kernel changes the qdisc are lost.
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
            if placed:  # it moved again, and the message was lost
                self._feed(Event(Kind.MOVED, side))
            await self._noqueue(side)
            if self._ending:
                return
            self._context.desk.left(link.place.key, self, side)  # a concurrent _follow() may have subscribed since
            link.place, link.label = place._replace(state=link.state), label
            self._context.desk.placed(place.key, self, side)
            self._tell("link_moved", side)
            placed = True
        self._context.desk.catch_up()  # messages older than place.state would take the link back to an older state
        if link.news == news:
            self._learn(side, place.state)

    async def look_again(self, side: Side) -> None:
        """Read the state of the end at side, because messages were lost, or because there was none.

        The kernel reports no new alias or group of a device that is down.
        """
        await self._follow(side, placed=True)
        await self.learn_master(side)

    async def learn_master(self, side: Side) -> None:
        """Look up the name of the bridge that the end at side is a port of."""
        link, workers = self.links[side], self._context.workers
        index = link.state.master
        link.master = (await workers.insist(workers.nursery.name_of, link.tap, index) or "") if index else ""

    async def _noqueue(self, side: Side) -> None:
        await self._context.workers.insist(self._context.workers.nursery.noqueue, self.links[side].tap)

    def _tell(self, event: Any, side: Side, detail: str = "") -> None:
        link = self.links[side]
        self._context.hub.tell(event, pair=self.id, link=link.state.name, netns=link.label, detail=detail)
