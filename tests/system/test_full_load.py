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
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.lib import House, Observatory
from tests.lib.busy import FLOWING, FULL, LOAD_S, Busy, Footprint, neighbours
from tests.lib.engines import make
from tests.lib.lab import Lab
from tests.lib.leaks import Traces
from tests.lib.load import Loads, compiled
from tests.lib.site import Site
from tests.lib.site import site as make_site
from tests.lib.wait import wait_until
from vethd.datapath.engine import Counters
from vethd.model.spec import LinkSpec
from vethd.model.verdict import forward_limit

pytestmark = pytest.mark.saturates

CI = os.environ.get("CI") == "true"

# How often a pair meets its end, or what is like it; for each engine, so that it is a thousand in CI.
ENDS = 500 if CI else 60
BUSY = 2  # pairs that meet theirs at the same time
WARM_UP = 8  # after which the allocator has seen all that there is
PAIRS = 200 if CI else 40
LIVES = 5  # of a daemon
CLOSES = 30  # of an engine
THREADS_MAX = 16  # pairs/workers.py makes up to 11 by and by; the loop's, and an engine's
MEMORY_KB = 8192  # what a daemon may grow by; a pair that is kept is 68 KB or more


@pytest.fixture(scope="module")
def loads(root: None, tmp_path_factory: pytest.TempPathFactory) -> Loads:  # noqa: ARG001 - the check that we may
    return compiled(tmp_path_factory.mktemp("load"))


@pytest.fixture
def grounds(root: None, engine: str, tmp_path: Path) -> Iterator[tuple[Site, Lab]]:  # noqa: ARG001 - as above
    """Yield a site of every engine, started, and its bench."""
    with make_site(tmp_path, engine) as (it, lab):
        it.start()
        it.count_idle()
        yield it, lab


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
        """Make an engine, let frames pass, close it; return the counters as they are then."""
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
