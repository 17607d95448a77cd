"""A worker and its lanes alone: fairness, and closing in every state.

A worker whose thread has not begun holds still, so that what waits when it begins is known.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lib import engines
from tests.lib.sockwire import frame
from tests.lib.wait import readable, wait_until
from tests.lib.yard import OPEN, Yard, counters, settled
from vethd.model.drops import Drop

BATCH = 64  # _lane.pxd
TURN_BYTES = 256 << 10  # as above
PAUSES = 100
MANY = 20_000
CLOSES = 200  # of lanes that a frame is about to wake


@pytest.fixture
def yard() -> Iterator[Yard]:
    it = Yard(engines.native())
    yield it
    it.close()


# Fairness


def lengths(yard: Yard, *waiting: list[int], urgent: tuple[int, ...] = ()) -> list[int]:
    """Let frames of these lengths wait in a queue each, begin, and return the order in which they are written.

    urgent: the numbers of the queues whose lanes are urgent.
    """
    end, sink = yard.pair()
    for number, queue in enumerate(waiting):
        device, src = yard.pair()
        yard.lane(src, sink, urgent=number in urgent)
        for length in queue:
            os.write(device, frame(length))
    yard.begin()
    got: list[int] = []

    def all_of_them() -> bool:
        while readable(end, 0):
            got.append(len(os.read(end, 1 << 17)) - 10)
        return len(got) == sum(map(len, waiting))

    wait_until(all_of_them, wake=end)
    return got


def longest_run(order: list[int], of: int, until: int) -> int:
    """Return how many frames of one length came in a row, at most, before the last one of the other length."""
    last = max(at for at, length in enumerate(order) if length == until)
    return max(map(len, "".join("x" if length == of else " " for length in order[:last]).split(" ")))


def test_queues_take_turns(yard: Yard) -> None:
    order = lengths(yard, [60] * 250, [61] * 250)
    assert longest_run(order, 60, 61) <= BATCH
    assert longest_run(order, 61, 60) <= BATCH


def test_a_frame_waits_for_one_round(yard: Yard) -> None:
    """Behind a queue at full speed, begun before it."""
    order = lengths(yard, [60] * 250, [61])
    assert order.index(61) <= BATCH


def test_turns_are_of_bytes_too(yard: Yard) -> None:
    """A queue of super-frames takes no more at a time from one of small frames."""
    order = lengths(yard, [60_000] * 40, [60] * 250)
    assert longest_run(order, 60_000, 60) <= TURN_BYTES // 60_000


def test_a_lane_of_many_gets_its_turn(yard: Yard) -> None:
    """More lanes than a round has reads: they go round in a circle."""
    order = lengths(yard, *([60 + n] * 3 for n in range(100)))
    assert sorted(order[:100]) == [60 + n for n in range(100)]


# Overload

FEEDER = """
import os, socket, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.SOL_UDP, 103, 74)  # UDP_SEGMENT: each send is 64 frames
    while True:
        sock.sendto(bytes(64 * 74), ("127.0.0.1", int(sys.argv[2])))
"""
HOG = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


@pytest.mark.parametrize("moderation_us", [50, 0])
def test_an_overloaded_worker_steps_back_for_who_waits_for_its_cpu(yard: Yard, moderation_us: int) -> None:
    """A lane that is never dry, and a program on the worker's CPU: the worker pauses, unless pauses are off."""
    _, sink = yard.pair()
    may = os.sched_getaffinity(0)
    source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    source.bind(("127.0.0.1", 0))
    source.setblocking(False)
    port = source.getsockname()[1]
    yard.worker.set_times(50, moderation_us)
    os.sched_setaffinity(0, {max(may)})  # of this thread, and of the worker's, which begins now
    try:
        yard.begin()
    finally:
        os.sched_setaffinity(0, may)
    lane = yard.lane(yard.own(source.detach()), sink)
    programs = [
        subprocess.Popen([sys.executable, "-c", *words])
        for words in ((FEEDER, str(min(may)), str(port)), (HOG, str(max(may))))
    ]
    try:
        before = counters(lane).read
        if moderation_us:
            wait_until(lambda: yard.worker.rounds[1] > PAUSES)
        wait_until(lambda: counters(lane).read > before + MANY)
        assert (yard.worker.rounds[1] > 0) is (moderation_us > 0)
    finally:
        for program in programs:
            program.kill()
            program.wait()


# Urgent lanes


def test_urgent_lanes_are_read_first_in_a_round(yard: Yard) -> None:
    """They began after the others; their own order is the circle's."""
    order = lengths(yard, [60] * 250, [61] * 250, [70], [71], urgent=(2, 3))
    assert order[:2] == [70, 71]


def test_an_urgent_lane_is_read_first_in_every_round(yard: Yard) -> None:
    """Whatever the others have left: between two of its turns each of the others has one at most."""
    order = lengths(yard, *([60 + n] * 20 for n in range(3)), [70] * 20, urgent=(3,))
    assert order[0] == 70
    turns = [length for length, before in zip(order, [0, *order], strict=False) if length != before]
    assert turns[: 2 * 4 : 4] == [70, 70]


def test_urgent_lanes_leave_the_others_their_turns(yard: Yard) -> None:
    """At full speed, neither has to wait for more than the other's part of a round."""
    order = lengths(yard, [60] * 250, *([70 + n] * 250 for n in range(4)), urgent=(1, 2, 3, 4))
    kinds = [60 if length == 60 else 70 for length in order]
    assert longest_run(kinds, 70, 60) <= 2 * BATCH
    assert longest_run(kinds, 60, 70) <= BATCH


def test_closing_urgent_lanes(yard: Yard) -> None:
    """Alone and among others, active and armed: the rest goes on."""
    lanes, ends = [], []
    _, sink = yard.pair()
    for number in range(6):
        device, src = yard.pair()
        ends.append(device)
        lanes.append(yard.lane(src, sink, urgent=number % 2 == 0))
    yard.begin()
    while lanes:
        for lane, device in zip(lanes, ends, strict=True):
            read = counters(lane).read
            os.write(device, frame(60))
            settled(lane, read + 1)
        at = len(lanes) // 2
        lanes.pop(at).close()
        ends.pop(at)


# Closing


def test_close_in_every_state(yard: Yard) -> None:
    """Never begun, being read, armed, dead; and twice."""
    device, src = yard.pair()
    parked = yard.native.Lane(yard.worker, src, src, 10, 1, OPEN)
    parked.close()
    parked.start()
    yard.begin()
    for wait in (False, True, True):
        lane = yard.lane(src, src, gate=int(Drop.NO_CARRIER))
        if wait:
            os.write(device, frame(60))
            settled(lane, 1)
            rounds = (-1, -1)
            while rounds != yard.worker.rounds:  # it spins for 50 us, then there are no more rounds
                rounds = yard.worker.rounds
                readable(src, 0.005)
        lane.close()
        lane.close()
        lane.start()
        assert lane.dry()
        os.write(device, frame(60))
        assert counters(lane).read == int(wait)
        assert os.read(src, 1000) == frame(60), "nobody else reads it"


def test_close_of_a_lane_that_a_frame_has_just_woken(yard: Yard) -> None:
    """Its event is in the epoll instance, and the frame is another's: nobody is told of a lane that is closed."""
    (device, src), (busy, source), (_, sink) = yard.pair(), yard.pair(), yard.pair()
    yard.begin()
    reader = yard.lane(source, sink)
    for times in range(CLOSES):
        lane = yard.native.Lane(yard.worker, src, sink, 10, 1, OPEN)
        lane.set_limit(65535)
        lane.start()
        os.write(device, frame(60))
        settled(lane, 1)
        wait_until(lambda: asleep(yard), poll_s=0)
        os.write(device, frame(60))
        lane.close()
        with suppress(BlockingIOError):  # the worker was faster
            os.read(src, 1000)
        os.write(busy, frame(60))
        assert settled(reader, times + 1).forwarded == times + 1


def asleep(yard: Yard) -> bool:
    """Return whether the worker's thread waits, in the kernel."""
    return "\nState:\tS" in Path(f"/proc/self/task/{yard.thread.native_id}/status").read_text()


def test_many_lanes(yard: Yard) -> None:
    """Each is armed; each wakes; each is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        end, sink = yard.pair()
        devices = []
        for tag in range(1200):
            device, src = yard.pair()
            devices.append(device)
            yard.lane(src, sink, tag=tag)
        yard.begin()
        for times in (1, 2):
            for lane in yard.lanes:
                lane.set_trust(times == 2)
            for n, device in enumerate(devices):
                os.write(device, frame(60, n % 256))
            for lane in yard.lanes:
                assert settled(lane, times).forwarded == times
                assert os.read(end, 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_lane_ends_with_its_names(native_threads: None) -> None:  # noqa: ARG001
    """Dropped without close(): it is closed, and the worker goes on."""
    yard = Yard(engines.native())
    device, src = yard.pair()
    yard.lane(src, src, gate=int(Drop.NO_CARRIER))
    yard.begin()
    yard.lanes.clear()
    gc.collect()
    os.write(device, frame(60))
    other, source = yard.pair()
    _, sink = yard.pair()
    lane = yard.lane(source, sink)
    os.write(other, frame(60))
    assert settled(lane, 1).forwarded == 1
    assert os.read(src, 1000) == frame(60), "nobody else reads it"
    yard.close()


def test_death_outlives_no_lane(native_threads: None) -> None:  # noqa: ARG001
    """Dropped without close() while its death is still to be told: nobody hears of what is freed."""
    yard = Yard(engines.native())
    fd = yard.own(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
    for tag in range(3):
        source = yard.own(os.dup(fd))
        assert yard.lane(source, source, tag=tag).dry()
    del yard.lanes[1]
    gc.collect()
    assert yard.worker.take_dead() == [2, 0]
    yard.close()


@pytest.fixture
def native_threads() -> Iterator[None]:
    """Prove that no thread of a worker is left."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before
