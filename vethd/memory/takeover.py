"""Forward a predecessor's pairs first: join their wires before the rest of the daemon is imported.

Theory of operation. A restart takes as long as its imports, so this module imports little. The record gives the fds of
each pair and the engine; the kernel gives each end's admin state and MTU. Gates and limits come from the kernel and not
from the record, as they may have changed while no daemon listened. The devices' counters are read at the same instant,
while no process reads frames from the devices, so our own counters continue from them exactly. The rest (rtnetlink
messages, filters, names) follows later: adoption.py takes over every running wire.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vethd.datapath.engine import Engine, ThreadedEngine
from vethd.kernel.glance import Glance, glance
from vethd.kernel.tun import Tap
from vethd.model.api import FORMER_ENGINES
from vethd.model.errors import VethError
from vethd.model.record import EndRecord, PairRecord, Record, newest
from vethd.model.state import End, PairState, Side
from vethd.model.verdict import forward_limit

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


COPIES = ("s0", "s1")
"""The names of the two fds that hold the record."""


class HeldPair:
    """A running wire whose pair is not adopted yet. seen is the state of its devices when the wire began."""

    def __init__(self, engine: Engine, record: PairRecord, taps: tuple[Tap, Tap], *, gro: bool) -> None:
        """Forward, from the loop's next turn on, or from begin() on if the engine has no loop yet. Blocks (RTNL)."""
        self._dead: list[int] = []
        self._tell: Callable[[int], None] | None = None
        self.seen: tuple[Glance, Glance] = (glance(taps[0]), glance(taps[1]))
        state = PairState([End.UP if end.up else End.DOWN for end in self.seen])
        near, far = taps
        gates = (state.gate(Side.NEAR), state.gate(Side.FAR))
        spec = record.spec
        urgent = spec.urgent_queues if spec is not None else ()
        self.wire = engine.join((near.fds, far.fds), near.vnet_hdr_len, self._died, gates, urgent)
        for side in Side:
            self.wire.set_limit(side, forward_limit(self.seen[side.other].mtu))
        self.wire.set_trust(trust=spec is not None and spec.rx_checksum == "trust")
        said = spec.gro if spec is not None else None
        self.wire.set_gro(gro=gro if said is None else said, udp=near.uso and far.uso)

    def hand_over(self, died: Callable[[int], None]) -> None:
        """Report the death of a device to died from now on, as Engine.join() does, past deaths included."""
        self._tell = died
        for side in self._dead:
            died(side)

    def _died(self, side: int) -> None:
        if self._tell is not None:
            self._tell(side)
        else:
            self._dead.append(side)


def read_record(fds: Mapping[str, int]) -> tuple[Record | None, list[str]]:
    """Read the record among fds (None if there is none), and return a sentence for each part that cannot be read.

    A copy that was never written is empty and causes no complaint.
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
    """Return the device of an end from its queues' inherited fds. Raises VethError if they are not one living TAP."""
    if len({(queue.ifname, queue.netns_inode()) for queue in (Tap.adopt((fd,)) for fd in fds)}) > 1:
        raise VethError(errno.EINVAL, "adopt", reason="the queues of one end belong to several devices")
    return Tap.adopt(fds, uso=end.uso)


def hold(record: Record, fds: Mapping[str, int], engine: Engine, held: dict[str, HeldPair], *, gro: bool) -> None:
    """Start to forward a record's pairs, and add each to held under its id; entries of held stay.

    fds are the inherited fds by name; the caller keeps them. A pair that cannot be forwarded is left out: adoption
    meets the same problem and logs it.
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
        if isinstance(engine, ThreadedEngine):
            engine.begin()


def same_engine(record: Record, loop: Callable[[], AbstractEventLoop]) -> Engine | None:
    """Make the predecessor's engine; None if that is impossible. loop makes a loop if the engine needs one."""
    if record.engine is None:
        return None
    if record.engine.name == "asyncio":
        from vethd.datapath.aio import AsyncioEngine  # noqa: PLC0415  the native engine does not need it

        return AsyncioEngine(loop())
    if FORMER_ENGINES.get(record.engine.name, record.engine.name) == "native" and record.engine.workers:
        from vethd.datapath.native import NativeEngine, why_not  # noqa: PLC0415  the asyncio engine does not need it

        try:
            own = (record.engine.workers, record.engine.spin_us, record.engine.moderation_us)
            return NativeEngine(None, *own) if why_not() is None else None
        except OSError:
            return None
    return None
