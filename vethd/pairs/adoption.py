"""Take over living devices from a predecessor, and pass them to a successor: convert a Record to Links, and back.

takeover.py has started to forward frames where it could; this module builds the rest of a pair. It changes neither the
devices nor their carrier. A pair that cannot be taken over is deleted and logged, half a pair included.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import structlog

from vethd.kernel import netns
from vethd.kernel.births import Nursery
from vethd.kernel.tun import Tap
from vethd.memory.former import SINCE, Words, brought_up_to_date
from vethd.memory.keeper import Memory
from vethd.memory.takeover import hold
from vethd.model.errors import VethError
from vethd.model.record import EndRecord, EngineRecord, PairRecord, Record
from vethd.model.spec import RING, LinkSpec, PairSpec, queue_len
from vethd.model.state import Side
from vethd.pairs.context import Context
from vethd.pairs.entry import Entry
from vethd.pairs.link import Link
from vethd.pairs.pair import LivePair
from vethd.pairs.tuning import Tuning
from vethd.pairs.workers import put_filters

log = structlog.get_logger()


class Adopter(Context[LivePair], Protocol):
    """The receiver of the pairs: the manager."""

    entries: dict[str, Entry]


async def adopt_pairs(manager: Adopter, memory: Memory) -> int:
    """Take over the pairs that a predecessor left in the memory; return the last id number that it gave to a pair."""
    workers = manager.workers
    for complaint in memory.complaints:
        log.warning("predecessor's record not fully readable", reason=complaint)
    record, held = memory.record, memory.held
    memory.record = None
    if record is not None:  # the pairs that do not forward yet: all of them if the engine is another now
        hold(record, memory.inherited, manager.tuning.engine, held, gro=manager.tuning.info().gro)
    for left, written in _read(record):
        running = held.pop(left.id, None)
        links = await workers.insist(_links, workers.nursery, left, written, memory) if running else None
        if running is None or links is None:
            if running is not None:
                running.wire.close()
            why = await workers.chore(_bury, workers.nursery, left, memory)
            log.warning("pair not taken over", pair=left.id, reason=why)
            memory.lost += 1
            continue
        pair = LivePair(left.id, links, manager)
        spec = left.spec or _as_they_are(links)
        entry = Entry(left.id, spec, left.source, live=pair, owner=left.owner, attachment=left.attachment)
        manager.entries[left.id] = entry
        pair.resume(left.ends, spec, running)
    memory.orphans = await workers.chore(memory.drop_rest, workers.nursery)
    if memory.orphans:
        log.warning("stored devices without a record deleted", fds=memory.orphans)
    return record.last_id if record else 0


class Parcel:
    """A keeper that only lists the fds for a successor, by name: those of the pairs, and the record's two."""

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
        """Close the record's fds; the pairs own the others."""
        self.memory.close()


def pack(manager: Adopter, parcel: Parcel) -> None:
    """Record all pairs, which are halted, and put into parcel the fds that another process needs to adopt them."""
    living = [(entry, entry.live) for entry in manager.entries.values() if entry.live is not None]
    for _, pair in living:
        for link in pair.links:
            link.kept = parcel.memory.keep(link.tap.fds)
    parcel.memory.put([entry_record(entry, pair) for entry, pair in living], 0, engine_record(manager.tuning))


def entry_record(entry: Entry, pair: LivePair) -> PairRecord:
    """Return the record of a living pair."""
    return PairRecord(
        id=entry.id,
        source=entry.source,
        owner=entry.owner,
        attachment=entry.attachment,
        spec=entry.spec,
        ends=(_end_record(pair, Side.NEAR), _end_record(pair, Side.FAR)),
    )


def engine_record(tuning: Tuning) -> EngineRecord:
    """Return the record of the engine."""
    info = tuning.info()
    own = {"spin_us": info.spin_us, "moderation_us": info.moderation_us}
    threads = {key: value for key, value in own.items() if value is not None}
    return EngineRecord(name=info.name, workers=info.workers, gro=info.gro, **threads)


def _read(record: Record | None) -> Iterator[tuple[PairRecord, tuple[Words, Words]]]:
    """Yield each pair of the record, with the alias and altname that the record's writer set on its two devices."""
    for pair in record.pairs if record is not None else ():
        if record is not None and record.version < SINCE:
            yield brought_up_to_date(pair)
        else:
            yield pair, (Words("", ""), Words("", ""))


def _links(nursery: Nursery, record: PairRecord, written: tuple[Words, Words], memory: Memory) -> tuple[Link, Link]:
    """Find the devices of a pair; for a worker thread. Raises VethError, and then the memory still owns the fds."""
    near, far = (
        _link(nursery, end, words, tuple(memory.inherited[name] for name in end.fds))
        for end, words in zip(record.ends, written, strict=True)
    )
    put_filters(near, far)
    for end in record.ends:
        memory.take(end.fds)
    return near, far


def _bury(nursery: Nursery, record: PairRecord, memory: Memory) -> str:
    """Delete the remaining devices of a pair, release its kept fds, and return the reason; for a worker thread."""
    names = [name for end in record.ends for name in end.fds]
    missing = [name for name in names if name not in memory.inherited]
    why = f"file descriptors are missing: {', '.join(missing)}" if missing else "its devices are gone"
    for name in set(names) & memory.inherited.keys():
        (fd,) = memory.take([name])
        with suppress(VethError):  # gone, or no TAP at all
            nursery.delete(Tap.adopt((fd,)))
        os.close(fd)
        memory.forget([name])
    return why


def _link(nursery: Nursery, end: EndRecord, written: Words, fds: tuple[int, ...]) -> Link:
    tap = Tap.adopt(fds, uso=end.uso)
    if any(written):
        try:
            nursery.strip(tap, alias=written.alias, altname=written.altname)
        except VethError as error:
            log.warning("alias and altname of a former release not removed", **written._asdict(), reason=str(error))
    place = nursery.locate(tap)
    ring = RING if end.ring is None else end.ring
    had = place.state.txqueuelen  # a user may have set it while no daemon listened
    asked = end.txqueuelen if had == queue_len(end.txqueuelen, ring) else had
    return Link(
        tap,
        place,
        netns.label(place.netns_inode, nursery.own_inode),
        asked,
        ring,
        kept=end.fds,
        drops=end.kernel_drops,
    )


def _as_they_are(links: tuple[Link, Link]) -> PairSpec:
    """Return a spec of the devices' present values, for a pair whose requested spec is unknown."""
    near, far = (
        LinkSpec(
            name=link.state.name,
            netns=link.label or None,
            address=link.state.address,
            mtu=link.state.mtu,
            txqueuelen=link.txqueuelen,
            up=link.state.up,
        )
        for link in links
    )
    return PairSpec(**near.attributes(), peer=far)


def _end_record(pair: LivePair, side: Side) -> EndRecord:
    link, counters = pair.links[side], pair.counters(side)
    return EndRecord(
        fds=link.kept,
        drops=list(counters.drops),
        dropped_bytes=counters.read_bytes - counters.forwarded_bytes,
        write_errors=counters.write_errors,
        kernel_drops=link.drops,
        uso=link.tap.uso,
        txqueuelen=link.txqueuelen,
        ring=link.ring,
    )
