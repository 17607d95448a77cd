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

from tests.benchmarks.common import (
    Benchmark,
    Options,
    Result,
    benches,
    main,
    median,
    p99,
    table,
)
from tests.lib import rtnl
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
        "end deleted, other gone": bench.deletion(),
    }


def run(said: Options) -> Result:
    """Measure."""
    tables: dict[str, str] = {}
    figures: dict[str, dict[str, dict[str, list[float]]]] = {}
    with benches() as (kernel, ours, _), contextlib.ExitStack() as stack:
        sides = {"kernel": Bench(kernel, stack), "vethd": Bench(ours, stack)}
        for title, loaded in (("idle", False), ("under one TCP flow at full speed", True)):
            found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
            # in slices, by turns: the other side's load would be in the way
            for _ in range(slices := 4):
                for name, bench in sides.items():
                    with bench.load() if loaded else contextlib.nullcontext():
                        found[name] += [cycle(bench) for _ in range(said.rounds // slices)]
            times = {name: {what: [each[what] for each in all_] for what in all_[0]} for name, all_ in found.items()}
            rows: list[list[str | float]] = [
                [what, *(figure(times[name][what]) * MS for name in sides for figure in (median, p99))]
                for what in times["kernel"]
            ]
            tables[title] = table(["ms", "kernel median", "p99", "vethd median", "p99"], rows)
            figures[title] = times
    return Result(tables, figures)


BENCHMARK = Benchmark("latency", __doc__ or "", run, rounds=100, quick_rounds=20)

if __name__ == "__main__":
    main(BENCHMARK)
