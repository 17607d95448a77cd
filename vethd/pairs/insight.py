"""What the engine tells about single frames: those that it dropped, and how long it had them."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from vethd.datapath.engine import Dropped, Latency
from vethd.model.drops import Drop
from vethd.model.errors import symbol
from vethd.model.insight import DroppedFrame, DroppedFrames, LinkLatency
from vethd.model.latency import BUCKETS, bound
from vethd.model.state import Side
from vethd.pairs.pair import LivePair


def dropped_frames(
    wanted: Iterable[tuple[LivePair, Side]], most: int, reason: Drop | None = None, after: int = 0
) -> DroppedFrames:
    """Return the newest dropped frames that the wanted ends sent, at most `most`.

    reason and after leave out frames dropped for other reasons, and those whose number is not greater than after.
    """
    total = newest = 0
    frames: list[DroppedFrame] = []
    for pair, side in wanted:
        drops = pair.counters(side).drops
        total += sum(drops) if reason is None else drops[reason]
        kept = pair.wire.dropped(side) if pair.wire is not None else []
        if kept:
            newest = max(newest, kept[-1].number)
        frames += [
            _described(pair, side, one) for one in kept if one.number > after and reason in (None, Drop(one.reason))
        ]
    frames.sort(key=attrgetter("seq"))
    return DroppedFrames(total=total, seq=newest, frames=frames[-most:])


def link_latency(pair: LivePair, side: Side) -> LinkLatency:
    """Return the times of the frames that an end sent."""
    link, peer = pair.links[side], pair.links[side.other]
    latency = pair.wire.latency(side) if pair.wire is not None else Latency()
    return LinkLatency(
        name=link.state.name,
        pair=pair.id,
        netns=link.label,
        peer_name=peer.state.name,
        peer_netns=peer.label,
        counts=list(latency.counts),
        bounds_ns=[bound(number) for number in range(BUCKETS)],
        total_ns=latency.total_ns,
    )


def _described(pair: LivePair, side: Side, one: Dropped) -> DroppedFrame:
    link, peer = pair.links[side], pair.links[side.other]
    return DroppedFrame(
        seq=one.number,
        time_ns=one.time_ns,
        pair=pair.id,
        link=link.state.name,
        netns=link.label,
        peer_name=peer.state.name,
        peer_netns=peer.label,
        reason=Drop(one.reason).label,
        errno=symbol(one.error) if one.error else "",
        frames=one.frames,
        length=one.length,
        limit=one.limit,
        queue=one.queue,
        vnet=one.vnet,
        data=one.data,
    )
