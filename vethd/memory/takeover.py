"""Forward first: join the wires of the pairs that a predecessor left, before anything else is known of them.

Theory of operation. A restart is as long as its imports, so this module imports little. All that a wire needs is in
the record (which fds make a pair, what the engine was) and in the kernel (is the end up, its MTU): gates and limits are
read there, not remembered, as they may have changed while nobody listened. What the devices have counted is read at
the same instant, while nobody reads from them: from there our own counters go on, exactly. The rest (rtnetlink's news,
filters, names) comes later: adoption.py takes over every wire that runs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vethd.datapath.engine import Engine, SpinningEngine
from vethd.kernel.glance import Glance, glance
from vethd.kernel.tun import Tap
from vethd.model.errors import VethError
from vethd.model.record import EndRecord, PairRecord, Record, newest
from vethd.model.state import End, PairState, Side
from vethd.model.verdict import forward_limit

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


COPIES = ("s0", "s1")
"""The names of the two fds that the record is in."""


class HeldPair:
    """A wire that runs, and whose pair nobody has looked at yet. seen is how its devices were when it began."""

    def __init__(self, engine: Engine, record: PairRecord, taps: tuple[Tap, Tap], *, gro: bool) -> None:
        """Forward, from the loop's next turn on, or at once where the engine has no loop yet. Blocks (RTNL)."""
        self._dead: list[int] = []
        self._tell: Callable[[int], None] | None = None
        self.seen: tuple[Glance, Glance] = (glance(taps[0]), glance(taps[1]))
        state = PairState([End.UP if end.up else End.DOWN for end in self.seen])
        near, far = taps
        gates = (state.gate(Side.NEAR), state.gate(Side.FAR))
        self.wire = engine.join((near.fds, far.fds), near.vnet_hdr_len, self._died, gates)
        for side in Side:
            self.wire.set_limit(side, forward_limit(self.seen[side.other].mtu))
        spec = record.spec
        self.wire.set_trust(trust=spec is not None and spec.rx_checksum == "trust")
        said = spec.gro if spec is not None else None
        self.wire.set_gro(gro=gro if said is None else said, udp=near.uso and far.uso)

    def hand_over(self, died: Callable[[int], None]) -> None:
        """Tell died of deaths, as Engine.join() has it, and of those that have happened already."""
        self._tell = died
        for side in self._dead:
            died(side)

    def _died(self, side: int) -> None:
        if self._tell is not None:
            self._tell(side)
        else:
            self._dead.append(side)


def read_record(fds: Mapping[str, int]) -> tuple[Record | None, list[str]]:
    """Read the record that was left among fds, and in words what of it cannot be read; None where there is none.

    A copy that was never written says nothing and is no reason to complain.
    """
    copies: list[bytes] = []
    complaints: list[str] = []
    for name in COPIES:
        if name in fds:
            try:
                copies.append(os.pread(fds[name], os.fstat(fds[name]).st_size, 0))
            except OSError as error:
                complaints.append(f"record {name}: {error.strerror}")
    record, reasons = newest(copy for copy in copies if copy)
    complaints += [f"a copy of the record: {reason}" for reason in reasons]
    return record, complaints + (record.untold if record else [])


def device(end: EndRecord, fds: tuple[int, ...]) -> Tap:
    """Return the device of an end, its queues' fds inherited. Raises VethError where they are not one living TAP."""
    if len({(queue.ifname, queue.netns_inode()) for queue in (Tap.adopt((fd,)) for fd in fds)}) > 1:
        raise VethError(errno.EINVAL, "adopt", reason="the queues of one end are of several devices")
    return Tap.adopt(fds, uso=end.uso)


def hold(record: Record, fds: Mapping[str, int], engine: Engine, held: dict[str, HeldPair], *, gro: bool) -> None:
    """Forward what can be forwarded of a record's pairs, and put it into held, by their ids; what is there stays.

    fds are what was inherited, by name, and stay the caller's. What cannot be is left out: adoption finds the same,
    and tells.
    """
    used: set[str] = set()
    for pair in record.pairs:
        names = [name for end in pair.ends for name in end.fds]
        if len(set(names)) < len(names) or used.intersection(names) or not fds.keys() >= set(names):
            continue
        used.update(names)
        if pair.id in held:
            continue
        try:
            near, far = (device(end, tuple(fds[name] for name in end.fds)) for end in pair.ends)
            held[pair.id] = HeldPair(engine, pair, (near, far), gro=gro)
        except VethError:
            continue
        if isinstance(engine, SpinningEngine):
            engine.begin()


def same_engine(record: Record, loop: Callable[[], AbstractEventLoop]) -> Engine | None:
    """Make the engine that the predecessor had; None where that cannot be. loop makes one, where one is needed."""
    if record.engine is None:
        return None
    if record.engine.name == "asyncio":
        from vethd.datapath.aio import AsyncioEngine  # noqa: PLC0415  the other one does without

        return AsyncioEngine(loop())
    if record.engine.name in ("native", "uring") and record.engine.workers:
        from vethd.datapath.native import NativeEngine, why_not  # noqa: PLC0415  asyncio does without

        try:
            return NativeEngine(None, record.engine.workers, record.engine.spin_us) if why_not() is None else None
        except OSError:
            return None
    return None
