"""An engine on sockets with coalescing on: what it is given, what it writes, and whether the model explains that."""

from __future__ import annotations

from collections.abc import Sequence

from tests.lib.engines import ENGINES
from tests.lib.segments import TCP, Segment
from tests.lib.sockwire import Bench
from vethd.model.gro import coalesce
from vethd.model.verdict import Road, verdict

# One that gives a callback all that waits: what it writes is known beforehand. Of an engine with threads only this is
# known: there is some division into batches of which it is what the model says.
ONE_LOOK = {name: name == "asyncio" for name in ENGINES}
DIVIDED_MAX = 24  # frames of a batch whose division is to be found: that costs by its cube

U4 = Segment()
U6 = Segment(src="fd00::1", dst="fd00::2")
T6 = U6.but(proto=TCP)


def start(it: Bench, vnet_hdr_len: int = 10, *, gro: bool = True, udp: bool = True, trust: bool = False) -> None:
    """Make a new wire, open, with coalescing."""
    it.start_over(vnet_hdr_len)
    it.wire.set_gro(gro=gro, udp=udp)
    it.wire.set_trust(trust=trust)
    it.open()


def push(it: Bench, batch: Sequence[bytes], side: int = 0) -> list[bytes]:
    """Have one side send a batch before the engine looks; return what the other was given."""
    before = it.counters(side).read
    for data in batch:
        it.devices[side][0].send(data)
    it.until(lambda: it.counters(side).read == before + len(batch) and not it.counters(side).in_flight)
    return it.received(1 - side)


def forwarded(batch: Sequence[bytes], road: Road) -> list[bytes]:
    """Return what the verdict lets pass, as it lets it pass."""
    verdicts = [(data, *verdict(data, road)) for data in batch]
    return [bytes([flags]) + data[1:] for data, drop, flags in verdicts if drop is None]


def explained(out: Sequence[bytes], passed: Sequence[bytes], vnet_hdr_len: int, *, udp: bool = True) -> bool:
    """Return whether out is what the model makes of passed, divided into batches somehow."""
    reached = {(0, 0)}  # how many of passed, how many of out
    todo = [(0, 0)]
    while todo:
        begin, done = todo.pop()
        for end in range(begin + 1, len(passed) + 1):
            part = [data for data, _ in coalesce(passed[begin:end], vnet_hdr_len, udp=udp)]
            place = (end, done + len(part))
            if list(out[done : place[1]]) == part and place not in reached:
                reached.add(place)
                todo.append(place)
    return (len(passed), len(out)) in reached


def coalesced(batch: Sequence[bytes]) -> list[bytes]:
    """Return what the model writes for one batch."""
    return [data for data, _ in coalesce(batch, 10)]
