"""Everything at once: threads that change, look into, close and make lanes of workers that run at full speed.

`tools/sanitize` runs this with an extension that tells every race and every byte out of bounds.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from types import ModuleType

import pytest

from tests.lib import engines
from tests.lib.segments import Segment
from tests.lib.sockwire import frame
from tests.lib.wait import wait_until
from tests.lib.yard import OPEN, Yard, counters, settled
from vethd.model.drops import Drop

ROUNDS = 20_000  # of a worker, some 20 frames each: in two seconds, or forty where every access to memory is looked at
STRETCH = 1_000  # of rounds, each with a deadline: a busy machine is slow, it does not stand still
LIVES = 100  # of workers
LANES = 4
GATES = (OPEN, OPEN, int(Drop.NO_CARRIER), int(Drop.PEER_DOWN))


class Anvil(Yard):
    """A yard whose lanes' devices are written to and read from all the time."""

    def __init__(self, native: ModuleType) -> None:
        super().__init__(native)
        self.over = threading.Event()
        self.frames = [*Segment().run(20), frame(60), frame(5), frame(2000)]

    def socks(self) -> tuple[int, int]:
        """Make a pair of sockets for one lane's end, without room for many frames."""
        return self.pair(socket.SOCK_DGRAM, 1 << 16)

    def feed(self, devices: list[int]) -> None:
        """Send by turns, until it is over."""
        while not self.over.is_set():
            for device in devices:
                for data in self.frames:
                    with suppress(BlockingIOError):
                        os.write(device, data)

    def empty(self, devices: list[int]) -> None:
        """Read by turns, until it is over."""
        while not self.over.is_set():
            for device in devices:
                with suppress(BlockingIOError):
                    while True:
                        os.read(device, 1 << 17)

    def change(self, seed: int) -> None:
        """Do anything that may be done to lanes, until it is over."""
        dice = random.Random(seed)
        while not self.over.is_set():
            lane = dice.choice(self.lanes)
            acts: tuple[Callable[[], object], ...] = (
                lambda lane=lane: lane.set_gate(dice.choice(GATES)),  # type: ignore[misc]
                lambda lane=lane: lane.set_limit(dice.choice((60, 1518, 65535))),  # type: ignore[misc]
                lambda lane=lane: lane.set_trust(dice.random() < 0.5),  # type: ignore[misc]
                lambda lane=lane: lane.set_gro(dice.random() < 0.7, dice.random() < 0.7),  # type: ignore[misc]
                lane.dry,
                lambda lane=lane: counters(lane),  # type: ignore[misc]
                self.worker.take_dead,
                lambda: self.worker.set_times(dice.choice((0, 50)), dice.choice((0, 5, 50))),
            )
            dice.choice(acts)()

    def come_and_go(self, src: int, dst: int) -> None:
        """Make a lane and close it, until it is over; and of a device that is gone, whose death nobody may hear of."""
        gone = self.own(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
        while not self.over.is_set():
            for fd in (src, gone):
                lane = self.native.Lane(self.worker, fd, dst, 10, 1, OPEN)
                lane.set_limit(1518)
                lane.set_gro(True, True)
                lane.join_back(random.choice(self.lanes))
                lane.start()
                lane.counters()
                lane.close()
                assert counters(lane).in_flight == 0


@pytest.fixture
def anvil() -> Iterator[Anvil]:
    it = Anvil(engines.native())
    yield it
    it.close()


def test_hammer(anvil: Anvil) -> None:
    into, out = [], []
    for tag in range(LANES):
        device, src = anvil.socks()
        end, sink = anvil.socks()
        anvil.lane(src, sink, tag=tag)
        into.append(device)
        out.append(end)
    (more, src), (end, sink) = anvil.socks(), anvil.socks()
    anvil.begin()
    with ThreadPoolExecutor(8) as threads:
        at_work = [threads.submit(anvil.feed, [*into, more]), threads.submit(anvil.empty, [*out, end])]
        at_work += [threads.submit(anvil.change, seed) for seed in range(4)]
        at_work.append(threads.submit(anvil.come_and_go, src, sink))

        def far_enough(goal: int) -> bool:
            return anvil.worker.rounds[0] > goal or any(done.done() for done in at_work)

        try:
            for goal in range(STRETCH, ROUNDS + 1, STRETCH):
                wait_until(partial(far_enough, goal))
        finally:
            anvil.over.set()
        for done in at_work:
            done.result()
    for lane in anvil.lanes:
        assert settled(lane, 1).forwarded > 0


def test_workers_that_come_and_go() -> None:
    """Each with a lane at work, begun, stopped, and given back."""
    native = engines.native()
    for _ in range(LIVES):
        with closing(Anvil(native)) as anvil:
            device, src = anvil.socks()
            end, sink = anvil.socks()
            lane = anvil.lane(src, sink)
            anvil.begin()
            os.write(device, frame(60))
            assert settled(lane, 1).forwarded == 1
            assert os.read(end, 100) == frame(60)
