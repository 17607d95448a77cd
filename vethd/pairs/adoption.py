"""Take over living devices from a predecessor, and leave them to a successor: Record to Links, and back."""

from __future__ import annotations

import os

from vethd.kernel import netns
from vethd.kernel.births import Nursery
from vethd.kernel.tun import Tap
from vethd.model.errors import VethError
from vethd.model.record import EndRecord, PairRecord
from vethd.model.state import Side
from vethd.pairs.entry import Entry
from vethd.pairs.keeper import Memory
from vethd.pairs.link import Link
from vethd.pairs.pair import LivePair
from vethd.pairs.workers import put_filters


def entry_record(entry: Entry, pair: LivePair) -> PairRecord:
    """Write down a living pair."""
    return PairRecord(
        id=entry.id,
        source=entry.source,
        spec=entry.spec,
        ends=(_end_record(pair, Side.NEAR), _end_record(pair, Side.FAR)),
    )


def adopted_links(nursery: Nursery, record: PairRecord, memory: Memory) -> tuple[Link, Link]:
    """Take the inherited fds of a pair, and find its devices; for a worker thread.

    Raises KeyError where an fd is missing, VethError where a device is gone; then nothing of the pair is left.
    """
    taken: list[tuple[int, ...]] = []
    try:
        taken.extend(memory.take(end.fds) for end in record.ends)
        near, far = (_link(nursery, end, fds) for end, fds in zip(record.ends, taken, strict=True))
    except (VethError, KeyError):
        # half a pair is no pair: the end that lives goes, too
        for fds in taken:
            for fd in fds:
                os.close(fd)
        for end in record.ends:
            memory.forget(end.fds)
        raise
    put_filters(near, far)
    return near, far


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
