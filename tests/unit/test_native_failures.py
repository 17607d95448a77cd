"""The native engine where what it stands on gives way, and what it coalesces where the rounds are known."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lib import engines
from tests.lib.leaks import Traces
from tests.lib.segments import TCP, Segment
from tests.lib.sockwire import frame
from tests.lib.wait import readable, wait_until
from tests.lib.yard import Yard, counters, settled
from vethd.datapath.engine import Counters
from vethd.datapath.uring import UringEngine
from vethd.model.gro import coalesce

IO_URING_SETUP = 425
HITS = 2  # of the moment that is meant
HITS_S = 60.0  # an attempt takes a few ms, and the first hits where nothing else runs
SEGMENTS = {"udp4": Segment(), "tcp6": Segment(src="fd00::1", dst="fd00::2").but(proto=TCP)}


@pytest.fixture(params=["ring", "plain"])
def yard(request: pytest.FixtureRequest) -> Iterator[Yard]:
    it = Yard(engines.native(), plain=request.param == "plain")
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


def test_ring_that_fails_is_made_anew(yard: Yard) -> None:
    """One lane is awake and one asleep as it fails: both go on, and close as ever."""
    lanes = []
    for _ in range(2):
        device, src = yard.pair()
        end, sink = yard.pair()
        lanes.append((device, end, yard.lane(src, sink)))
    yard.begin()
    for number, (device, end, lane) in enumerate(lanes):
        os.write(device, frame(60, number))
        assert settled(lane, 1).forwarded == 1
        assert os.read(end, 100) == frame(60, number)
    null = yard.own(os.open(os.devnull, os.O_RDWR))
    for times in (1, 2):
        os.dup2(null, yard.worker.ring_fd)
        for device, end, lane in lanes:
            os.write(device, frame(60, times))
            assert settled(lane, 1 + times).forwarded == 1 + times
            assert os.read(end, 100) == frame(60, times)
        wait_until(lambda times=times: yard.worker.renewals == times)  # type: ignore[misc]
    lanes[0][2].close()
    os.write(lanes[0][0], frame(60))
    os.write(lanes[1][0], frame(60, 9))
    assert settled(lanes[1][2], 4).forwarded == 4
    assert counters(lanes[0][2]).read == 3


def test_ring_that_fails_amid_traffic_loses_no_count(yard: Yard) -> None:
    device, src = yard.pair()
    _, sink = yard.pair()
    lane = yard.lane(src, sink)
    for number in range(500):
        os.write(device, frame(60, number % 256))
    null = yard.own(os.open(os.devnull, os.O_RDWR))
    yard.begin()
    os.dup2(null, yard.worker.ring_fd)
    os.write(device, frame(70))  # which wakes a worker that had read all before
    wait_until(lambda: yard.worker.renewals == 1)
    for _ in range(50):
        counters(lane)  # balanced at every instant
    wait_until(lambda: counters(lane).in_flight == 0 and lane.dry())
    assert counters(lane).forwarded > 0


def ring_that_takes_nothing(yard: Yard) -> int:
    """Return a ring of our own: whoever takes it for his submits nothing, and hears of no error."""
    fd = ctypes.CDLL(None, use_errno=True).syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(120))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return yard.own(int(fd))


def sleeps(thread: threading.Thread) -> bool:
    """Return whether a thread waits, or is done."""
    try:
        return "\nState:\tS" in Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def close_as_the_ring_fails(yard: Yard, null: int, deaf: int) -> tuple[int, Counters]:
    """Close a lane amid a round of which the ring takes nothing: what is in flight then, and how the lane ends."""
    (device, src), (_, sink) = yard.pair(), yard.pair()
    frames = 0
    with suppress(BlockingIOError):  # as many rounds as the socket has room for, some thirty
        while True:
            os.write(device, frame(60_000))
            frames += 1
    lane, ring = yard.lane(src, sink), yard.worker.ring_fd
    while not (now := counters(lane)).in_flight and now.read < frames:  # without a pause: they would be over
        pass
    os.dup2(deaf, ring)  # what the worker submits now stays its own: it tries again, and holds the lock
    left: list[int] = []

    def close() -> None:
        lane.close()
        left.append(counters(lane).in_flight)

    closer = threading.Thread(target=close)
    try:
        closer.start()
        wait_until(lambda: sleeps(closer))
    finally:
        os.dup2(null, ring)
    closer.join()
    return left[0], counters(lane)


@pytest.mark.parametrize("yard", ["ring"], indirect=True)
def test_lane_that_is_closed_as_the_ring_fails(yard: Yard) -> None:
    """What was being written is counted before its owner has it back, who may free it."""
    null, deaf = yard.own(os.open(os.devnull, os.O_RDWR)), ring_that_takes_nothing(yard)
    yard.begin()
    hits = 0
    deadline = time.monotonic() + HITS_S
    while hits < HITS:
        assert time.monotonic() < deadline, "the worker was never amid a write"
        left, closed = close_as_the_ring_fails(yard, null, deaf)
        assert left == 0
        hits += errno.ECANCELED in closed.write_errors


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
        with pytest.raises(OSError, match="cannot start a worker thread"):
            UringEngine(loop, workers=3)
    assert len(started) == 2
    assert threading.active_count() == threads
    before.assert_nothing_left()
    loop.close()


def test_closed_engine_takes_no_pair() -> None:
    loop = asyncio.new_event_loop()
    engine = UringEngine(loop)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.join(([0], [0]), 10, lambda _side: None)
    loop.close()
