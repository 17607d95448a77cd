"""The native engine where what it stands on gives way, and what it coalesces where the rounds are known."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest

from tests.lib import engines
from tests.lib.leaks import Traces
from tests.lib.segments import TCP, Segment
from tests.lib.wait import readable
from tests.lib.yard import Yard, settled
from vethd.datapath.native import NativeEngine
from vethd.model.gro import coalesce

IO_URING_SETUP = 425
HITS = 2  # of the moment that is meant
HITS_S = 60.0  # an attempt takes a few ms, and the first hits where nothing else runs
SEGMENTS = {"udp4": Segment(), "tcp6": Segment(src="fd00::1", dst="fd00::2").but(proto=TCP)}


@pytest.fixture
def yard() -> Iterator[Yard]:
    it = Yard(engines.native())
    yield it
    it.close()


@pytest.mark.parametrize("kind", list(SEGMENTS))
def test_rounds_coalesce_as_the_model_says(yard: Yard, kind: str) -> None:
    """Frames that wait as the worker begins are read in rounds of 1, 2, 4, 8, 16 and what is left."""
    batch = SEGMENTS[kind].run(40)
    device, src = yard.pair()
    end, sink = yard.pair()
    lane = yard.lane(src, sink)
    lane.set_gro(gro=True, udp=True)
    for data in batch:
        os.write(device, data)
    yard.begin()
    assert settled(lane, 40).forwarded == 40
    rounds = [batch[0:1], batch[1:3], batch[3:7], batch[7:15], batch[15:31], batch[31:40]]
    expected = [one.data for part in rounds for one in coalesce(part, 10)]
    assert len(expected) == len(rounds)
    assert [os.read(end, 1 << 17) for _ in expected] == expected
    assert not readable(end, 0)


def test_thread_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is an OSError, as all that keeps the engine from running; the threads before it end."""
    loop = asyncio.new_event_loop()
    before, threads = Traces.now(), threading.active_count()
    real = threading.Thread.start
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(OSError, match="cannot start"):
            NativeEngine(loop, workers=3)
    assert len(started) == 2
    assert threading.active_count() == threads
    before.assert_nothing_left()
    loop.close()


def test_closed_engine_takes_no_pair() -> None:
    loop = asyncio.new_event_loop()
    engine = NativeEngine(loop)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.join(([0], [0]), 10, lambda _side: None)
    loop.close()
