"""Pairs that are deleted, moved, renamed, made and left by their daemon while frames pass as fast as they go.

    a [x] ===== [y] b      full load both ways; x moves to c and back, is renamed, either is deleted: again and again
    p [pa] ===== [pb] q    a neighbour, 1,000 datagrams a second both ways: none may be lost
    s [ta] ===== [tb] t    a neighbour, TCP as fast as it goes: no byte may be wrong

Every frame bears its pair's mark, and whoever receives looks at all of it (tests/lib/load).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.lib import House, Observatory
from tests.lib.engines import make
from tests.lib.lab import End, Lab, Wire
from tests.lib.leaks import Traces
from tests.lib.load import Loads, compiled
from tests.lib.site import Site
from tests.lib.site import site as make_site
from tests.lib.wait import wait_until
from vethd.datapath.engine import Counters
from vethd.model.drops import Drop
from vethd.model.spec import LinkSpec
from vethd.model.verdict import forward_limit

CI = os.environ.get("CI") == "true"

# How often a pair meets its end, or what is like it; for each engine, so that it is a thousand in CI.
ENDS = 500 if CI else 60
BUSY = 2  # pairs that meet theirs at the same time
WARM_UP = 8  # after which the allocator has seen all that there is
PAIRS = 200 if CI else 40
LIVES = 5  # of a daemon
CLOSES = 30  # of an engine
FULL = 150_000  # datagrams a second each way: several times what an engine moves of several pairs on two cores
FLOWING = 100  # frames that pass either way before a pair meets its end
LOAD_S = 20.0  # the machine is full: what takes milliseconds otherwise takes turns
THREADS_MAX = 16  # pairs/workers.py makes up to 11 by and by; the loop's, and an engine's
MEMORY_KB = 8192  # what a daemon may grow by; a pair that is kept is 68 KB or more

ENGINE_DROPS = [drop.label for drop in Drop]


@pytest.fixture(scope="module")
def loads(root: None, tmp_path_factory: pytest.TempPathFactory) -> Loads:  # noqa: ARG001 - the check that we may
    return compiled(tmp_path_factory.mktemp("load"))


@pytest.fixture
def grounds(root: None, engine: str, tmp_path: Path) -> Iterator[tuple[Site, Lab]]:  # noqa: ARG001 - as above
    """Give a site of every engine, started, and its bench."""
    with make_site(tmp_path, engine) as (it, lab):
        it.start()
        it.count_idle()
        yield it, lab


class Busy:
    """A pair between two namespaces at full load, whose near end has a third one to go to."""

    def __init__(self, site: Site, lab: Lab, loads: Loads, mark: int = 1) -> None:
        self.site = site
        self.mark = mark
        self.a, self.b, self.c = (lab.netns(f"{tag}{mark}") for tag in "abc")
        self.loads = [loads.frames(netns.path, mark, side, FULL) for side, netns in enumerate((self.a, self.b, self.c))]
        self.wire = Wire(End(self.a, "x"), End(self.b, "y"))
        self.pair = ""

    def make(self) -> None:
        """Make the pair and bring it up."""
        spec = {"name": "x", "netns": self.a.name, "peer": {"name": "y", "netns": self.b.name}}
        self.wire = Wire(End(self.a, "x"), End(self.b, "y"))
        self.pair = self.site.post(spec)["id"]
        ends = b'{"up": true, "peer": {"up": true}}'
        assert self.site.daemon.request("PATCH", f"/v1/pairs/{self.pair}", ends)[0] == 200

    def stats(self) -> list[Any]:
        """Give what each end sent; what was read must all be accounted for."""
        return [one for one in stats(self.site) if one["pair"] == self.pair]

    def wait_flowing(self) -> None:
        """Wait until frames have passed either way."""
        before = [one["forwarded"] for one in self.stats()]
        assert len(before) == 2

        def flowing() -> bool:
            now = [one["forwarded"] for one in self.stats()]
            return all(n - b >= FLOWING for n, b in zip(now, before, strict=True))

        try:
            wait_until(flowing, LOAD_S)
        except AssertionError as error:
            pair = [pair for pair in self.site.daemon.pairs() if pair["id"] == self.pair]
            words = f"{self.pair} does not flow: {before} {self.stats()} {pair} {[end.get() for end in self.ends()]}"
            raise AssertionError(words) from error

    def ends(self) -> list[End]:
        """Give the places where its devices may be."""
        return [End(self.a, "x"), End(self.c, "x"), End(self.b, "y")]

    def wait_gone(self) -> None:
        """Wait for the end of both devices and of the pair."""

        def gone() -> bool:
            there = [pair for pair in self.site.daemon.pairs() if pair["id"] == self.pair]
            return not there and not self.a.names() | self.b.names() | self.c.names()

        wait_until(gone, LOAD_S, "pair and devices gone")

    # What may happen to it, each time while frames pass

    def deleted_by_api(self) -> None:
        assert self.site.daemon.request("DELETE", f"/v1/pairs/{self.pair}")[0] == 204
        self.wait_gone()
        self.make()

    def deleted_by_ip(self) -> None:
        self.b.ip("link del y")
        self.wait_gone()
        self.make()

    def moved(self) -> None:
        """There and back, with frames from there too."""
        for source, target in ((self.a, self.c), (self.c, self.a)):
            source.ip(f"link set x netns {target.name}")
            target.ip("link set x up")
            self.wait_flowing()

    def renamed(self) -> None:
        """And back."""
        self.a.ip("link set x name z")
        self.wait_flowing()
        self.a.ip("link set z name x")

    def meet_ends(self, times: int) -> None:
        """Make the pair where there is none, and let it meet its end so many times; after each all adds up."""
        if not self.pair:
            self.make()
        for n in range(times):
            self.wait_flowing()
            (self.deleted_by_api, self.moved, self.deleted_by_ip, self.renamed)[n % 4]()
            stats(self.site)
        self.wait_flowing()

    def close(self) -> None:
        """End the traffic; none of it may have gone astray."""
        for load in self.loads:
            load.end()
        results = [load.stop() for load in self.loads]
        for result in results:
            result.assert_pure()
        assert min(result.received for result in results[:2]) > FLOWING


def stats(site: Site) -> list[Any]:
    """Give every end's counters, which must add up."""
    status, body = site.daemon.request("GET", "/v1/stats")
    assert status == 200, body
    for one in body:
        assert one["read"] == one["forwarded"] + sum(one["drops"][name] for name in ENGINE_DROPS) + one["in_flight"]
    return list(body)


@contextmanager
def neighbours(lab: Lab, loads: Loads) -> Iterator[None]:
    """Have two pairs that must not notice what happens to others."""
    p, q, s, t = (lab.netns(tag) for tag in "pqst")
    for near, far in ((p, q), (s, t)):
        wire = lab.pair(near, far)
        wire.up()
    wire.addresses()
    with (
        loads.frames(p.path, 11, 0, 1000) as here,
        loads.frames(q.path, 11, 1, 1000) as there,
        loads.stream(s.path, t.path, "10.9.0.2", 12) as tcp,
    ):
        yield
        here.end()
        there.end()
        stream, results = tcp.stop(), (here.stop(), there.stop())
    assert stream.wrong == 0
    assert stream.arrived > 1 << 20
    for mine, other in (results, results[::-1]):
        mine.assert_pure()
        assert mine.socket_drops == 0
        assert mine.sent > 0
        assert other.received == mine.sent, f"lost: {mine} {other}"


class Footprint:
    """What a process may leave behind by and by."""

    def __init__(self, pid: int) -> None:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        self.threads, self.rss_kb = int(status["Threads"]), int(status["VmRSS"].split()[0])

    def __repr__(self) -> str:
        return f"{self.threads} threads, {self.rss_kb} KB"


def test_a_thousand_ends(grounds: tuple[Site, Lab], loads: Loads) -> None:
    """Of several pairs at once."""
    site, lab = grounds
    every = [Busy(site, lab, loads, mark) for mark in range(1, BUSY + 1)]
    footprints: list[Footprint] = []
    with ExitStack() as stack:
        for busy in every:
            for load in busy.loads:
                stack.enter_context(load)
        stack.enter_context(neighbours(lab, loads))
        at_work = stack.enter_context(ThreadPoolExecutor(BUSY))
        for ends in (WARM_UP, ENDS // BUSY - WARM_UP):
            for done in [at_work.submit(busy.meet_ends, ends) for busy in every]:
                done.result()
            footprints.append(Footprint(site.daemon.pid))
        for busy in every:
            busy.close()
    before, after = footprints
    assert after.threads <= THREADS_MAX
    assert after.rss_kb - before.rss_kb < MEMORY_KB, footprints
    for busy in every:
        assert site.daemon.request("DELETE", f"/v1/pairs/{busy.pair}")[0] == 204
        busy.wait_gone()


def test_many_pairs_come_and_go(grounds: tuple[Site, Lab], loads: Loads) -> None:
    """Beside one at full load and those that must not notice."""
    site, lab = grounds
    near, far = lab.netns("n"), lab.netns("f")
    busy = Busy(site, lab, loads)
    with ExitStack() as stack:
        for load in busy.loads:
            stack.enter_context(load)
        stack.enter_context(neighbours(lab, loads))
        busy.make()
        busy.wait_flowing()
        for n in range(PAIRS):
            lab.pair(near, far, LinkSpec(name=f"va{n}", up=True), LinkSpec(name=f"vb{n}"))
        assert len(site.daemon.pairs()) == PAIRS + 3
        busy.wait_flowing()
        for n in range(0, PAIRS, 2):
            lab.backend.dellink(f"va{n}", near.name)
        near.delete()
        wait_until(lambda: len(site.daemon.pairs()) == 3 and not far.names(), LOAD_S, "the end of many pairs")
        busy.wait_flowing()
        busy.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_daemon_ends(grounds: tuple[Site, Lab], loads: Loads, how: str) -> None:
    """In good order or at once: its devices go with it, and the next one begins anew."""
    site, lab = grounds
    busy = Busy(site, lab, loads)
    with ExitStack() as stack:
        for load in busy.loads:
            stack.enter_context(load)
        for _ in range(LIVES):
            busy.make()
            busy.wait_flowing()
            getattr(site, how)()
            wait_until(lambda: not busy.a.names() | busy.b.names(), LOAD_S, "its devices gone")
            site.start()
        busy.close()


class Rig:
    """An engine of this process between two TAPs at full load."""

    def __init__(self, house: House, loads: Loads, engine: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.nets = (house.net(), house.net())
        self.taps = tuple(house.live_tap(net, "x") for net in self.nets)
        self.loads = [
            loads.frames(Path(f"/proc/{os.getpid()}/fd/{net.fd}"), 1, n, FULL) for n, net in enumerate(self.nets)
        ]
        self.engine = engine
        self.died: list[int] = []

    def run(self) -> tuple[Counters, Counters]:
        """Make an engine, let frames pass, close it; give the counters as they are then."""
        engine = make(self.engine, self.loop)
        near, far = self.taps
        wire = engine.join(([near.fd], [far.fd]), 10, self.died.append, (None, None))
        for side in (0, 1):
            wire.set_limit(side, forward_limit(1500))
        wire.set_gro(gro=True)

        async def flowing() -> None:
            # what a wire counts is no event
            while not all(wire.counters(side).forwarded > FLOWING for side in (0, 1)):  # noqa: ASYNC110
                await asyncio.sleep(0)

        self.loop.run_until_complete(asyncio.wait_for(flowing(), LOAD_S))
        engine.close()
        return wire.counters(0), wire.counters(1)

    def close(self) -> None:
        self.loop.close()


def test_engine_closes(root: None, engine: str, loads: Loads) -> None:  # noqa: ARG001 - the check that we may
    """While frames pass: none is in flight, all are accounted for, no more is read; and the next engine goes on."""
    before = Traces.now()
    with Observatory() as observatory, House(observatory) as house:
        rig = Rig(house, loads, engine)
        with rig.loads[0], rig.loads[1]:
            for _ in range(CLOSES):
                for counters in rig.run():
                    assert counters.in_flight == 0
                    assert counters.read == counters.forwarded + sum(counters.drops)
            for load in rig.loads:
                load.end()
            # what the last engine left in the queues is nobody's; all that came was pure
            for load in rig.loads:
                load.stop().assert_pure()
        assert rig.died == []
        rig.close()
    before.assert_nothing_left()
