"""How soon the other end knows: a changed MTU, a carrier, a deletion; alone, and while iperf3 fills another pair.

Measured from the moment when the kernel has acknowledged the request (for a deletion: when it was asked) to the moment
when the effect is seen, by looking again and again: what is told is the state, not the event, and on a TAP carrier
*events* come at most once a second.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator

from tests.benchmarks.accounts import audit
from tests.benchmarks.data import median
from tests.benchmarks.extra import Extra, Setting, labs, p99
from tests.benchmarks.tables import Cell, Table
from tests.lib import rtnl
from tests.lib.backends import Vethd
from tests.lib.frames import VLAN_HLEN, sized
from tests.lib.lab import Lab
from tests.lib.packet import PacketSocket
from tests.lib.programs import Iperf3, running
from tests.lib.rtnl import Link, Rtnl, nest, text, u32
from vethd.model.spec import LinkSpec

MS = 1e3
LOOK_S = 50e-6  # between two looks: a core left free for whoever has to act
GIVE_UP_S = 5.0
WIDE, NARROW = 1500, 1400
LIMIT = 14 + VLAN_HLEN  # what a frame may have beside its receiver's MTU
ROUNDS, QUICK_ROUNDS, SLICES = 100, 8, 4
TITLES = ("latency_idle", "latency_load")

Found = dict[str, dict[str, dict[str, list[float]]]]  # idle or under load, by side, by change: seconds


class Bench:
    """A pair of one side, with sockets held open at both ends."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack) -> None:
        """Make the pair that stays, and a place for those that are deleted."""
        self.lab = lab
        self.a, self.b = lab.netns("a"), lab.netns("b")
        self.near, self.far = (stack.enter_context(Rtnl(netns)) for netns in (self.a, self.b))
        # what its own stack lets out is the near end's MTU; what arrives is the far end's affair
        lab.pair(self.a, self.b, LinkSpec(mtu=9000)).up()
        self.sender = stack.enter_context(PacketSocket(self.a, "va"))
        self.receiver = stack.enter_context(PacketSocket(self.b, "vb"))

        self.marks = 0  # frames that were numbered so far
        self.busy = lab.pair(lab.netns("x"), lab.netns("y"))
        self.busy.up()
        _, self.busy_far = self.busy.addresses()

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Fill another pair of the same side with one TCP flow while the body runs."""
        near, far = self.busy.a, self.busy.b
        before = near.link.stats.tx_bytes
        with (
            Iperf3.serving(far.netns, self.busy_far),
            running(near.netns, "iperf3", "-c", self.busy_far, "-t", "3600") as client,
        ):
            near.wait(lambda link: link.stats.tx_bytes > before + (1 << 24), what="traffic")
            yield
            assert client.process.poll() is None, client.output()
        if isinstance(self.lab.backend, Vethd):
            audit(self.lab.backend.daemon, self.busy)

    def narrower(self) -> float:
        """Lower the receiver's MTU: until a frame that was short enough is dropped."""
        self._mtu(NARROW)
        start = time.perf_counter()
        while True:
            self._send(sized(WIDE + LIMIT))
            sent = time.perf_counter()
            if self._dropped():
                return sent - start
            _look_again(start)

    def wider(self) -> float:
        """Raise it again: until a frame that was too long has arrived."""
        self._mtu(WIDE)
        start = time.perf_counter()
        while True:
            self._send(sized(WIDE + LIMIT))
            if any(len(got.frame) == WIDE + LIMIT for got in self.receiver.drained()):
                return time.perf_counter() - start
            _look_again(start)

    def carrier_off(self) -> float:
        """Set one end down: until the other has no carrier."""
        self._flags(up=False)
        return self._until(lambda link: not link.carrier)

    def carrier_on(self) -> float:
        """Set it up: until the other has carrier."""
        self._flags(up=True)
        return self._until(lambda link: link.carrier)

    def first_frame(self) -> float:
        """Set one end up and send from it at once: until the first frame was sent that arrived."""
        self._flags(up=False)
        self.sender.forget_error()
        self._until(lambda link: not link.carrier)
        sent: dict[bytes, float] = {}
        with PacketSocket(self.b, "vb") as source:
            self._flags(up=True)
            start = time.perf_counter()
            while True:
                self.marks += 1
                mark = sized(60, self.marks)
                with contextlib.suppress(OSError):  # there is no carrier yet
                    source.send(mark)
                sent[mark] = time.perf_counter() - start
                for got in self.sender.drained():
                    if got.frame in sent:
                        return sent[got.frame]
                _look_again(start)

    def deletion(self) -> float:
        """Delete an end of another pair: until the other is gone."""
        wire = self.lab.pair(self.a, self.b, LinkSpec(name="wa"), LinkSpec(name="wb"))
        start = time.perf_counter()
        self.near.request(rtnl.RTM_DELLINK, 0, rtnl.ifinfomsg() + nest([(rtnl.IFLA_IFNAME, text(wire.a.name))]))
        while self.far.getlink(wire.b.name) is not None:
            _look_again(start)
        return time.perf_counter() - start

    def _until(self, condition: Callable[[Link], bool]) -> float:
        start = time.perf_counter()
        while True:
            link = self.near.getlink("va")
            assert link is not None
            if condition(link):
                return time.perf_counter() - start
            _look_again(start)

    def _mtu(self, mtu: int) -> None:
        self.receiver.drained()
        self.dropped = self._tx_dropped()
        attrs = nest([(rtnl.IFLA_IFNAME, text("vb")), (rtnl.IFLA_MTU, u32(mtu))])
        self.far.request(rtnl.RTM_NEWLINK, 0, rtnl.ifinfomsg() + attrs)

    def _flags(self, *, up: bool) -> None:
        header = rtnl.ifinfomsg(0, rtnl.IFF_UP if up else 0, rtnl.IFF_UP)
        self.far.request(rtnl.RTM_NEWLINK, 0, header + nest([(rtnl.IFLA_IFNAME, text("vb"))]))
        self.receiver.forget_error()

    def _send(self, frame: bytes) -> None:
        try:
            self.sender.send(frame)
        except OSError as error:  # how a device without a queue says that it dropped a frame
            if error.errno != errno.ENOBUFS:
                raise

    def _dropped(self) -> bool:
        return self._tx_dropped() > self.dropped

    def _tx_dropped(self) -> int:
        link = self.near.getlink("va")
        assert link is not None
        return link.stats.tx_dropped


def _look_again(start: float) -> None:
    assert time.perf_counter() - start < GIVE_UP_S, "nothing happened"
    time.sleep(LOOK_S)


def cycle(bench: Bench) -> dict[str, float]:
    """Measure everything once, and end as it began."""
    return {
        "MTU lowered, limit holds": bench.narrower(),
        "MTU raised, limit holds": bench.wider(),
        "peer down, carrier off": bench.carrier_off(),
        "peer up, carrier on": bench.carrier_on(),
        "end up, first frame passes": bench.first_frame(),
        "end deleted, other gone": bench.deletion(),
    }


def measure(setting: Setting) -> Found:
    """Measure every side, idle and under load."""
    rounds = QUICK_ROUNDS if setting.quick else ROUNDS
    found: Found = {}
    with labs(setting, *setting.engines) as sides, contextlib.ExitStack() as stack:
        benches = {name: Bench(lab, stack) for name, lab in sides.items()}
        for title, loaded in (("idle", False), ("under one TCP flow", True)):
            cycles: dict[str, list[dict[str, float]]] = {name: [] for name in benches}
            # in slices, by turns: the other side's load would be in the way
            for _ in range(SLICES):
                for name, bench in benches.items():
                    with bench.load() if loaded else contextlib.nullcontext():
                        cycles[name] += [cycle(bench) for _ in range(rounds // SLICES)]
            found[title] = {
                name: {what: [each[what] for each in all_] for what in all_[0]} for name, all_ in cycles.items()
            }
    return found


def tables(found: Found) -> list[Table]:
    """Return the medians and 99th percentiles in milliseconds."""
    shown = []
    for name, (title, sides) in zip(TITLES, found.items(), strict=True):
        rows: list[list[Cell]] = []
        for what in next(iter(sides.values())):
            times = [each[what] for each in sides.values()]
            rows.append([what, *(figure(each) * MS for each in times for figure in (median, p99))])
        shown.append(Table(name, [f"ms, {title}", *(text for side in sides for text in (side, "p99"))], rows))
    return shown


EXTRA = Extra("latency", TITLES, measure, tables)
