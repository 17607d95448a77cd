"""The auditor: looks every second while everything goes on, and every few seconds takes stock at a standstill."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.lib.rtnl import Link
from tests.soak.books import Books, Place, Reading
from tests.soak.process import TUN, Process, Weigher, descriptors, link_faults
from tests.soak.stage import Stage, Wrong
from tests.soak.traffic import Flows, FlowTotals, Totals
from tests.soak.windows import BATCH, Windows
from tests.soak.world import Cut, World

LOOK_S = 1.0
STOCK_EVERY = 5  # looks
MEMFDS = 2  # the record's copies in the store
SETTLE_S = 30.0


def flow_faults(totals: Totals) -> list[str]:
    """Say what no window declares: what came twice, astray, or with other bytes; or was lost to the hearer itself."""
    never = ("doubled", "foreign", "corrupt", "socket_drops")
    return [
        f"pair {mark} side {side}: {getattr(flow, what)} {what.replace('_', ' ')}"
        for (mark, side), flow in totals.items()
        for what in never
        if getattr(flow, what)
    ]


def tally_faults(totals: Totals, ends: Mapping[tuple[int, int], Mapping[str, Any]], kills: int) -> list[str]:
    """Say where the last frame is not accounted for; ends are the books of pairs on which only their flows send.

    The senders have ended, and all has arrived.
    """
    wrong = []
    for key, end in ends.items():
        flow = totals[key]
        sums = {
            "arrived, or was told to be lost": flow.heard + flow.lost,
            "sent by the device": end["tx_packets"],
            "read": end["read"],
            "forwarded": end["forwarded"],  # what a kill took counts so: docs/reliability.md
        }
        where = f"pair {key[0]} side {key[1]}"
        wrong += [f"{where}: {flow.sent} sent, {count} {what}" for what, count in sums.items() if count != flow.sent]
        if flow.refused != end["tx_dropped"]:
            wrong.append(f"{where}: {flow.refused} refused, tx_dropped is {end['tx_dropped']}")
        if flow.lost > kills * BATCH:
            wrong.append(f"{where}: {flow.lost} frames lost over {kills} kills")
    return wrong


@dataclass(eq=False)
class Auditor:
    """Looks at one world; run() until the run is over."""

    world: World
    flows: Flows
    weigher: Weigher
    books: Books = field(default_factory=Books)
    looks: int = 0
    stocktakings: int = 0
    _read_ns: int = field(default_factory=time.monotonic_ns)  # when the last reading in the books began

    @property
    def stage(self) -> Stage:
        return self.world.stage

    @property
    def windows(self) -> Windows:
        return self.world.windows

    def run(self) -> None:
        """Look, until the run is over; what is wrong ends it."""
        try:
            while not self.stage.over.wait(LOOK_S):
                self.look()
                if self.looks % STOCK_EVERY == 0:
                    with self.stage.standstill():
                        self.take_stock()
        except (Wrong, Cut) as error:
            self.stage.fail(f"auditor: {error}")
        except BaseException:  # noqa: BLE001 - a fault of the soak's own ends it, too
            self.stage.fail(f"auditor: {traceback.format_exc()}")

    def look(self) -> None:
        """Look at traffic, books and process, whatever goes on. Raises Wrong."""
        self.looks += 1
        totals = self.flows.totals()
        wrong = flow_faults(totals)
        while self.flows.events:
            if words := self.windows.judge(self.flows.events.popleft()):
                wrong.append(words)
        began = time.monotonic_ns()
        reading = self._reading(self._read_ns)
        if reading is not None:
            self._read_ns = began
            wrong += self.books.look(reading)
        process = Process.look(self.world.pid())
        if process is not None:
            wrong += self.weigher.look(process, self.world.made)
        if wrong:
            raise Wrong("; ".join(wrong))

    def take_stock(self) -> None:
        """Hold what should be there against the API, the kernel, the daemon's fds and systemd's store. Raises Wrong."""
        self.stocktakings += 1
        found: list[str] = []

        def settled() -> bool:
            found[:] = self.stock_faults()
            return not found

        try:
            self.stage.wait(settled, "a standstill in which all agree", SETTLE_S)
        except Wrong as error:
            raise Wrong("; ".join(found) or str(error)) from error

    def stock_faults(self) -> list[str]:
        """Say what does not agree with what."""
        wanted = self.world.listed()
        told = {pair["id"]: pair for pair in self.world.get("/v1/pairs")}
        wrong = [f"{pair} is not in the API" for pair in wanted if pair.id not in told]
        ids = {pair.id for pair in wanted}
        wrong += [
            f"{one['spec'].get('name')} ({one['state']}) is in the API, and nobody wants it"
            for one in told.values()
            if one["id"] not in ids
        ]
        links = {(link["netns"], link["ifindex"]): link for pair in told.values() for link in pair["links"]}
        there = {(room.name, link.ifindex): link for room in self.world.every_room() for link in room.links()}
        for place, link in links.items():
            wrong += link_faults(link, there.get(place))
        wrong += [f"{link.name} in {place[0]} is nobody's" for place, link in there.items() if place not in links]
        ends = {end for pair in wanted for end in pair.ends()}
        wrong += [f"{name} is not in {room}" for room, name in ends - {(p[0], link.name) for p, link in there.items()}]
        queues = sum(link["queues"] for link in links.values())
        stored = descriptors(self.world.box.pid)
        taps, memfds = stored.count(TUN), sum("/memfd:vethd" in name for name in stored)
        if (taps, memfds) != (queues, MEMFDS):
            wrong.append(f"systemd holds {taps} TAPs and {memfds} memfds, the living pairs have {queues} queues")
        said = int(self.world.box.show("vethd.service", "NFileDescriptorStore"))
        if said != queues + MEMFDS:
            wrong.append(f"systemd says that it holds {said} descriptors, not {queues + MEMFDS}")
        process = Process.look(self.world.pid())
        return wrong + (["the daemon is gone"] if process is None else list(self.weigher.idle(process, queues)))

    def tally(self, steady: list[int], kills: int) -> None:
        """Let the senders end, and account for every frame of the steady pairs, by their marks. Raises Wrong."""
        ids = {pair.id: pair.mark for pair in self.world.listed() if pair.mark in steady}
        flows = [(mark, side) for mark in steady for side in (0, 1)]
        now = time.monotonic_ns()
        # past the last upset, so that the last frame is none that a killed daemon took
        self.stage.wait(lambda: self._all(flows, lambda flow: flow.heard_ns > now), "frames past the last upset")
        self.flows.end()
        self.stage.wait(lambda: self._all(flows, lambda flow: flow.sent == flow.heard + flow.lost), "the last frame")
        totals = self.flows.totals()
        ends: dict[tuple[int, int], Mapping[str, Any]] = {}
        for end in self.world.get("/v1/stats"):
            mark = ids.get(end["pair"])
            if mark is not None:
                ends[mark, int((mark, 0) in ends)] = end
        if wrong := flow_faults(totals) + tally_faults(totals, ends, kills):
            raise Wrong("; ".join(wrong))
        if ends.keys() != set(flows):
            raise Wrong(f"the books have the ends {sorted(ends)} of {flows}")

    def _all(self, flows: list[tuple[int, int]], condition: Callable[[FlowTotals], bool]) -> bool:
        totals = self.flows.totals()
        return all(condition(totals[flow]) for flow in flows)

    def _reading(self, since: int) -> Reading | None:
        """Read the counters three times; None where the daemon went away meanwhile."""
        listed = self.world.listed()
        before = self._kernel()
        try:
            _, stats = self.world.ask("GET", "/v1/stats")
        except Cut:
            return None
        after = self._kernel()
        pairs = [*listed, *self.world.listed()]  # those that are just going, and those that have just come back
        marked = {pair.id: self.windows.touched(pair.mark, since) for pair in pairs if pair.mark is not None}
        steady = frozenset(pair for pair, touched in marked.items() if not touched)
        reborn = frozenset(pair.id for pair in pairs if pair.source == "config" and marked.get(pair.id))
        return Reading(stats, before, after, killed=self.windows.killed(since), steady=steady, reborn=reborn)

    def _kernel(self) -> dict[Place, dict[str, int]]:
        found: dict[Place, dict[str, int]] = {}
        for room in self.world.every_room():
            try:
                links: list[Link] = room.links()
            except OSError:  # the namespace is just going
                continue
            found |= {(room.name, link.ifindex): vars(link.stats) for link in links}
        return found
