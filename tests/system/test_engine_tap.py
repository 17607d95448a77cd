"""Every engine over real TAPs that die under it, or refuse: told once, counted, and nothing that spins."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kernel.lib import House, Net
from tests.kernel.tap import TUNSETOFFLOAD, Tap
from tests.lib.engines import ENGINES, make
from tests.lib.frames import ETH_P_IP, Vnet, ether, sized, udp
from tests.lib.packet import PacketSocket
from tests.lib.segments import TCP, Segment
from tests.lib.sockwire import LOOPS, LoopFactory
from tests.lib.wait import DEADLINE_S, wait_until
from vethd.datapath.engine import Counters, Wire
from vethd.kernel.uapi import TUN_F_CSUM, TUN_F_TSO4
from vethd.model.drops import Drop
from vethd.model.verdict import forward_limit

IDLE_S = 0.2  # how long a loop with nothing to do is watched
IDLE_CPU_S = 0.05  # what that may cost; one that spins takes all of it
IDLE_LOOKS = 5  # somebody else's work, Python's collector's say, may cost more in one of them


@pytest.fixture(params=list(LOOPS))
def factory(request: pytest.FixtureRequest) -> LoopFactory:
    return LOOPS[request.param]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Wired:
    """Two TAPs, up, in two namespaces, and a wire between them."""

    def __init__(self, house: House, loop: asyncio.AbstractEventLoop, engine: str) -> None:
        self.loop = loop
        self.nets: tuple[Net, Net] = (house.net(), house.net())
        self.taps: tuple[Tap, Tap] = (house.live_tap(self.nets[0], "va"), house.live_tap(self.nets[1], "vb"))
        self.died: list[int] = []
        self.engine = make(engine, loop)
        near, far = self.taps
        self.wire: Wire = self.engine.join(([near.fd], [far.fd]), 10, self.died.append)
        for side in (0, 1):
            self.wire.set_limit(side, forward_limit(1500))
            self.wire.set_gate(side, None)

    def until(self, condition: Callable[[], bool]) -> None:
        """Run the loop until condition holds."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"{self.died} {self.wire.counters(0)} {self.wire.counters(1)}"
            self.loop.run_until_complete(asyncio.sleep(0))

    def assert_idle(self) -> None:
        """Run the loop for IDLE_S, again where that took CPU time, the engine's threads' with it; one that spins does.

        Raises AssertionError where it always did.
        """
        took_s: list[float] = []
        while not took_s or (took_s[-1] >= IDLE_CPU_S and len(took_s) < IDLE_LOOKS):
            begin = time.process_time()
            self.loop.run_until_complete(asyncio.sleep(IDLE_S))
            took_s.append(time.process_time() - begin)
        assert took_s[-1] < IDLE_CPU_S, took_s

    def settled(self, side: int, read: int) -> Counters:
        """Run the loop until so many of a side's frames are read and none is in flight; return the counters."""

        def look() -> bool:
            counters = self.wire.counters(side)
            assert counters.read == counters.forwarded + sum(counters.drops) + counters.in_flight
            return counters.read >= read and not counters.in_flight

        self.until(look)
        return self.wire.counters(side)

    def send(self, side: int, count: int) -> None:
        """Send frames from one device, as a namespace's stack does."""
        with self.nets[side].packet(self.taps[side].name) as sock:
            for n in range(count):
                sock.send(sized(100, n))


@pytest.fixture
def wired(house: House, factory: LoopFactory, engine: str) -> Iterator[Wired]:
    loop = factory()
    complaints: list[object] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    it = Wired(house, loop, engine)
    yield it
    it.engine.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert complaints == []


def test_live_wire_is_idle(wired: Wired) -> None:
    """What the figures below are compared with."""
    wired.send(0, 10)
    assert wired.settled(0, 10).forwarded == 10
    wired.assert_idle()
    assert wired.died == []


@pytest.mark.parametrize("side", [0, 1])
def test_death_is_told_once(wired: Wired, side: int) -> None:
    """The other direction lives on, and drops what it reads: its peer is gone."""
    wired.nets[side].delete(wired.taps[side].name)
    wired.until(lambda: bool(wired.died))
    wired.assert_idle()
    assert wired.died == [side]
    wired.send(1 - side, 5)
    assert wired.settled(1 - side, 5).drops[Drop.NO_PEER] == 5
    assert wired.wire.dry(side)
    assert wired.died == [side]


def test_both_die(wired: Wired) -> None:
    for net, tap in zip(wired.nets, wired.taps, strict=True):
        net.delete(tap.name)
    wired.until(lambda: len(wired.died) == 2)
    wired.assert_idle()
    assert sorted(wired.died) == [0, 1]


def test_death_under_load(wired: Wired) -> None:
    """With frames waiting on both sides: all are accounted for."""
    wired.send(0, 200)
    wired.send(1, 200)
    wired.nets[1].delete("vb")
    wired.until(lambda: bool(wired.died))
    assert wired.settled(0, 200).read == 200
    wired.settled(1, 0)
    assert wired.died == [1]
    wired.assert_idle()


def test_peer_that_is_down_is_told_from_one_that_is_gone(wired: Wired) -> None:
    wired.nets[1].down("vb")
    wired.send(0, 3)
    assert wired.settled(0, 3).drops[Drop.PEER_DOWN] == 3
    assert wired.nets[1].link("vb").stats.rx_dropped == 3
    wired.nets[1].up("vb")
    wait_until(lambda: wired.nets[1].link("vb").operstate == "UP")
    wired.send(0, 3)
    assert wired.settled(0, 6).forwarded == 3


def test_header_that_the_kernel_alone_refuses(wired: Wired) -> None:
    """A gso_type that no rule of ours looks into: UDP_L4 with TCP's place for the checksum. Its neighbours pass.

    No TAP gives such a header, so a socket plays the sender.
    """
    packet = ether(udp(("10.0.0.1", 1), ("10.0.0.2", 2), bytes(2000), partial=True), proto=ETH_P_IP)
    good = Vnet(1, 5, 42, 1000, 34, 6).pack() + packet
    bad = Vnet(1, 5, 42, 1000, 34, 16).pack() + packet
    device, fd = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wired.wire.close()
    with device, fd:
        fd.setblocking(False)
        wired.wire = wired.engine.join(([fd.fileno()], [wired.taps[1].fd]), 10, wired.died.append, (None, None))
        for data in (good, bad, good):
            device.send(data)
        counters = wired.settled(0, 3)
        wired.wire.close()
    assert counters.forwarded == 2
    assert counters.drops[Drop.BAD_VNET_HEADER] == 1
    assert wired.nets[1].link("vb").stats.rx_packets == 2


@pytest.mark.parametrize(("length", "count"), [(100, 3000), (60_000, 200)])
def test_all_that_waits_when_a_gate_opens_is_stale(wired: Wired, length: int, count: int) -> None:
    """However long the ring, and of super-frames however many bytes; what is sent from then on passes."""
    near, far = wired.taps
    near.ioctl(TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    wired.nets[0].ip(f"link set dev {near.name} txqueuelen {count + 10}")
    wired.wire.close()
    wired.wire = wired.engine.join(([near.fd], [far.fd]), 10, wired.died.append)
    packet = Segment(proto=TCP, payload=bytes(length - 54))
    vnet = Vnet(1, 1 if length > 1514 else 0, 54, 1000, 34, 16)
    with PacketSocket(wired.nets[0], near.name, vnet=True) as sock:
        for _ in range(count):
            sock.send(packet.frame(), vnet)
        wired.wire.set_limit(0, forward_limit(1500))
        wired.wire.set_gate(0, None)
        assert wired.settled(0, count).drops[Drop.STALE] == count
        assert wired.wire.dry(0)
        sock.send(packet.frame(), vnet)
    assert wired.settled(0, count + 1).forwarded == 1
    assert wired.wire.counters(0).drops[Drop.STALE] == count


def test_read_that_answers_efault_is_a_death(wired: Wired) -> None:
    """As that of a device that is just going; here of one whose header is too short for its offloads."""
    wired.taps[0].ioctl(TUNSETOFFLOAD, 0x1FF)
    wired.send(0, 1)
    wired.until(lambda: bool(wired.died))
    assert wired.died == [0]
    wired.assert_idle()
