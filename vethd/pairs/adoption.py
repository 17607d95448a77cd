"""Take over living devices from a predecessor, and leave them to a successor: Record to Links, and back.

The frames flow already, where takeover.py could see to it; here follows all the rest of a pair's life. Neither devices
nor carrier are touched. What cannot be taken over is deleted, and told: half a pair is no pair.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol

import structlog

from vethd.kernel import netns
from vethd.kernel.births import Nursery
from vethd.kernel.tun import Tap
from vethd.memory.keeper import Memory
from vethd.memory.takeover import hold
from vethd.model.errors import VethError
from vethd.model.record import EndRecord, EngineRecord, PairRecord
from vethd.model.spec import LinkSpec, PairSpec
from vethd.model.state import Side
from vethd.pairs.context import Context
from vethd.pairs.entry import Entry
from vethd.pairs.link import Link
from vethd.pairs.pair import LivePair
from vethd.pairs.tuning import Tuning
from vethd.pairs.workers import put_filters

log = structlog.get_logger()


class Adopter(Context[LivePair], Protocol):
    """Who is to have the pairs: the manager."""

    entries: dict[str, Entry]


async def adopt_pairs(manager: Adopter, memory: Memory) -> int:
    """Take over the pairs that a predecessor left in the memory; give the last number that was given to any."""
    workers = manager.workers
    for complaint in memory.complaints:
        log.warning("the predecessor's record", reason=complaint)
    record, held = memory.record, memory.held
    memory.record = None
    if record is not None:  # what could not begin yet, and all of it where the engine is another now
        hold(record, memory.inherited, manager.tuning.engine, held, gro=manager.tuning.info().gro)
    for left in record.pairs if record else []:
        running = held.pop(left.id, None)
        links = await workers.insist(_links, workers.nursery, left, memory) if running else None
        if running is None or links is None:
            if running is not None:
                running.wire.close()
            why = await workers.chore(_bury, workers.nursery, left, memory)
            log.warning("pair not taken over", pair=left.id, reason=why)
            memory.lost += 1
            continue
        pair = LivePair(left.id, links, manager)
        spec = left.spec or _as_they_are(links)
        manager.entries[left.id] = Entry(left.id, spec, left.source, live=pair, owner=left.owner)
        pair.resume(left.ends, spec, running)
    memory.orphans = await workers.chore(memory.drop_rest, workers.nursery)
    if memory.orphans:
        log.warning("stored devices without a record deleted", fds=memory.orphans)
    return record.last_id if record else 0


class Parcel:
    """A keeper who keeps nothing, but knows what a successor is to be given: fds by name, all but two the pairs'."""

    def __init__(self) -> None:
        """Begin empty."""
        self.fd_store = False
        self.fds: dict[str, int] = {}
        self.memory = Memory(self, {})

    def keep(self, name: str, fd: int) -> None:
        """See Keeper."""
        self.fds[name] = fd

    def forget(self, name: str) -> None:
        """See Keeper."""
        self.fds.pop(name, None)

    def close(self) -> None:
        """Close what the pairs do not own: the record."""
        self.memory.close()


def pack(manager: Adopter, parcel: Parcel) -> None:
    """Write down all pairs, halted, and put into parcel what another process needs to adopt them."""
    living = [(entry, entry.live) for entry in manager.entries.values() if entry.live is not None]
    for _, pair in living:
        for link in pair.links:
            link.kept = parcel.memory.keep(link.tap.fds)
    parcel.memory.put([entry_record(entry, pair) for entry, pair in living], 0, engine_record(manager.tuning))


def entry_record(entry: Entry, pair: LivePair) -> PairRecord:
    """Write down a living pair."""
    return PairRecord(
        id=entry.id,
        source=entry.source,
        owner=entry.owner,
        spec=entry.spec,
        ends=(_end_record(pair, Side.NEAR), _end_record(pair, Side.FAR)),
    )


def engine_record(tuning: Tuning) -> EngineRecord:
    """Write down the engine."""
    info = tuning.info()
    spin = {} if info.spin_us is None else {"spin_us": info.spin_us}
    return EngineRecord(name=info.name, workers=info.workers, gro=info.gro, **spin)


def _links(nursery: Nursery, record: PairRecord, memory: Memory) -> tuple[Link, Link]:
    """Find the devices of a pair; for a worker thread. Raises VethError, and then the fds are still the memory's."""
    near, far = (_link(nursery, end, tuple(memory.inherited[name] for name in end.fds)) for end in record.ends)
    put_filters(near, far)
    for end in record.ends:
        memory.take(end.fds)
    return near, far


def _bury(nursery: Nursery, record: PairRecord, memory: Memory) -> str:
    """Delete what is there of a pair, have it kept no longer, and say why it had to be; for a worker thread."""
    names = [name for end in record.ends for name in end.fds]
    missing = [name for name in names if name not in memory.inherited]
    why = f"of its file descriptors there is no {', '.join(missing)}" if missing else "its devices are gone"
    for name in set(names) & memory.inherited.keys():
        (fd,) = memory.take([name])
        with suppress(VethError):  # gone, or no TAP at all
            nursery.delete(Tap.adopt((fd,)))
        os.close(fd)
        memory.forget([name])
    return why


def _link(nursery: Nursery, end: EndRecord, fds: tuple[int, ...]) -> Link:
    tap = Tap.adopt(fds, uso=end.uso)
    place = nursery.locate(tap)
    return Link(
        tap,
        place,
        netns.label(place.netns_inode, nursery.own_inode),
        own_alias=end.own_alias,
        alias=end.alias,
        altname=end.altname,
        kept=end.fds,
        drops=end.kernel_drops,
    )


def _as_they_are(links: tuple[Link, Link]) -> PairSpec:
    """Give a spec that says what the devices show, for a pair of which nobody can tell what was asked for."""
    near, far = (
        LinkSpec(
            name=link.state.name,
            netns=link.label or None,
            address=link.state.address,
            mtu=link.state.mtu,
            txqueuelen=link.state.txqueuelen,
            up=link.state.up,
        )
        for link in links
    )
    return PairSpec(**near.attributes(), peer=far)


def _end_record(pair: LivePair, side: Side) -> EndRecord:
    link, counters = pair.links[side], pair.counters(side)
    return EndRecord(
        fds=link.kept,
        alias=link.alias,
        altname=link.altname,
        own_alias=link.own_alias,
        drops=list(counters.drops),
        dropped_bytes=counters.read_bytes - counters.forwarded_bytes,
        write_errors=counters.write_errors,
        kernel_drops=link.drops,
        uso=link.tap.uso,
    )
