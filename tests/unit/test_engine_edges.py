"""The asyncio engine where no verdict decides: queues, errors of a write, death, fairness, closing."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO

import pytest

from tests.lib.sockwire import LOOPS, LoopFactory, bench, frame
from vethd.datapath import aio
from vethd.datapath.aio import BATCH
from vethd.model.drops import Drop
from vethd.model.vnet import VnetHdr


@pytest.fixture(params=list(LOOPS))
def factory(request: pytest.FixtureRequest) -> LoopFactory:
    return LOOPS[request.param]


def fine(_fd: int) -> None:
    """Let a read or a write be what it is."""


@dataclass
class Faults:
    """What is called before every read and every write of a device: it may raise."""

    before_read: Callable[[int], None] = fine
    before_write: Callable[[int], None] = fine


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Give the faults of all wires that are made from now on."""
    faults = Faults()

    class Faulty(FileIO):
        def readinto(self, buffer: bytearray) -> int | None:  # type: ignore[override]
            faults.before_read(self.fileno())
            return super().readinto(buffer)

        def write(self, data: memoryview) -> int | None:  # type: ignore[override]
            faults.before_write(self.fileno())
            return super().write(data)

    monkeypatch.setattr(aio, "FileIO", Faulty)
    return faults


def test_new_wire_is_closed_and_knows_no_length(factory: LoopFactory) -> None:
    with bench(factory) as it:
        it.devices[0][0].send(frame(60))
        it.until(lambda: it.counters(0).read == 1)
        assert it.counters(0).drops[Drop.NO_CARRIER] == 1
        it.wire.set_gate(0, None)
        it.devices[0][0].send(frame(60))
        it.until(lambda: it.counters(0).read == 2)
        assert it.counters(0).drops[Drop.OVERSIZE] == 1
        assert it.received(1) == []


def test_super_frame_passes_whole(factory: LoopFactory) -> None:
    """65,226 bytes is what TCP hands over; nothing is cut."""
    with bench(factory) as it:
        it.open()
        big = frame(65226, 7, VnetHdr(1, 1, 66, 1448, 34, 16))
        it.devices[0][0].send(big)
        it.until(lambda: it.counters(0).read == 1)
        assert it.received(1) == [big]
        assert it.counters(0).forwarded_bytes == 65226


@pytest.mark.parametrize("queues", [(1, 1), (4, 4), (4, 2), (2, 4), (3, 1)])
def test_flow_stays_on_its_queue(factory: LoopFactory, queues: tuple[int, int]) -> None:
    """What comes in by queue n goes out by queue n, counted round where the other end has fewer; in order."""
    with bench(factory, queues) as it:
        it.open()
        for side in (0, 1):
            sent = {q: [frame(60 + q, n) for n in range(20)] for q in range(queues[side])}
            for n in range(20):
                for q, flow in sent.items():
                    it.devices[side][q].send(flow[n])
            it.until(lambda side=side: it.counters(side).read == 20 * queues[side])  # type: ignore[misc]
            for out in range(queues[1 - side]):
                got = it.received(1 - side, out)
                for q, flow in sent.items():
                    mine = [data for data in got if len(data) == 10 + 60 + q]
                    assert mine == (flow if q % queues[1 - side] == out else [])


def test_full_receiver_is_a_write_error_with_its_errno(factory: LoopFactory) -> None:
    """Frames that found no room are gone and counted; the engine neither waits nor tries again."""
    with bench(factory) as it:
        it.open()
        it.fds[1][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        for n in range(100):
            it.devices[0][0].send(frame(1000, n))
        it.until(lambda: it.counters(0).read == 100)
        counters = it.counters(0)
        assert counters.forwarded > 0
        assert counters.write_errors == {errno.EAGAIN: 100 - counters.forwarded}
        assert it.received(1) == [frame(1000, n) for n in range(counters.forwarded)]
        it.devices[0][0].send(frame(100, 9))
        it.until(lambda: it.counters(0).read == 101)
        assert it.received(1) == [frame(100, 9)]


def test_receiver_that_hung_up_is_a_write_error_with_its_errno(factory: LoopFactory) -> None:
    with bench(factory, kind=socket.SOCK_DGRAM) as it:
        it.open()
        it.devices[1][0].close()
        for _ in range(3):
            it.devices[0][0].send(frame(60))
        it.until(lambda: it.counters(0).read == 3)
        assert it.counters(0).write_errors == {errno.ECONNREFUSED: 1, errno.ENOTCONN: 2}
        assert it.died == []


def test_two_full_directions_take_turns(factory: LoopFactory) -> None:
    """Neither is ever a batch and a half ahead of the other, and both come to their end."""
    total = 10 * BATCH
    with bench(factory) as it:
        for side in (0, 1):
            for _ in range(total):
                it.devices[side][0].send(frame(60))
        it.wire.set_limit(0, 1518)
        it.wire.set_limit(1, 1518)
        most = 0
        while it.counters(0).read < total or it.counters(1).read < total:
            before = it.counters(0).read + it.counters(1).read
            it.turn()
            most = max(most, it.counters(0).read + it.counters(1).read - before)
            assert abs(it.counters(0).read - it.counters(1).read) <= 2 * BATCH
        assert most <= 4 * BATCH, "one turn of the loop is short"


def test_turn_is_short_in_bytes_too(monkeypatch: pytest.MonkeyPatch, factory: LoopFactory) -> None:
    """Super-frames take longer to copy: a batch ends with the frame that passes its budget of bytes."""
    monkeypatch.setattr(aio, "BATCH_BYTES", 10_000)
    with bench(factory) as it:
        for n in range(50):
            it.devices[0][0].send(frame(1490, n))
        most = 0
        while it.counters(0).read < 50:
            before = it.counters(0).read
            it.turn()
            most = max(most, it.counters(0).read - before)
        assert most <= 2 * 7, "7 of 1500 bytes; a loop may look twice in one turn"


def test_many_wires_take_turns(factory: LoopFactory) -> None:
    """A wire at full speed delays another by one batch."""
    with bench(factory) as busy, bench(factory) as _:
        quiet_device, quiet_fd = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sink_device, sink_fd = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        socks = (quiet_device, quiet_fd, sink_device, sink_fd)
        for sock in socks:
            sock.setblocking(False)
        wire = busy.engine.join(([quiet_fd.fileno()], [sink_fd.fileno()]), 10, busy.died.append)
        for _ in range(20 * BATCH):
            busy.devices[0][0].send(frame(60))
        quiet_device.send(frame(60))
        busy.until(lambda: wire.counters(0).read == 1)
        assert busy.counters(0).read <= 3 * BATCH
        wire.close()
        for sock in socks:
            sock.close()


def test_closed_wire_touches_nothing(factory: LoopFactory) -> None:
    """Not even a frame that was waiting when it closed; and its fds may be somebody else's at once."""
    with bench(factory) as it:
        it.open()
        it.devices[0][0].send(frame(60, 1))
        it.wire.close()
        it.wire.close()
        for _ in range(5):
            it.turn()
        assert it.fds[0][0].recv(100) == frame(60, 1), "still where it was"
        assert it.received(1) == []
        assert it.counters(0).read == 0
        heard: list[int] = []
        it.loop.add_reader(it.fds[0][0].fileno(), heard.append, 1)
        it.devices[0][0].send(frame(60, 2))
        it.until(lambda: bool(heard))
        it.loop.remove_reader(it.fds[0][0].fileno())
        assert it.wire.dry(0)
        assert it.counters(0).read == 0
        assert it.died == []


def test_dry_reads_all_that_waits(factory: LoopFactory) -> None:
    """Without a turn of the loop, more than one batch of it, and says so."""
    with bench(factory) as it:
        it.open()
        for n in range(5 * BATCH):
            it.devices[0][0].send(frame(60, n % 256))
        assert it.wire.dry(0)
        assert it.counters(0).forwarded == 5 * BATCH
        assert it.received(1) == [frame(60, n % 256) for n in range(5 * BATCH)]
        assert it.wire.dry(1)


@pytest.mark.parametrize(
    ("code", "drop"),
    [
        (errno.EIO, Drop.PEER_DOWN),
        (errno.EINVAL, Drop.BAD_VNET_HEADER),
        (errno.EBADFD, Drop.NO_PEER),
        (errno.EBADF, Drop.NO_PEER),
        (errno.ENOBUFS, Drop.WRITE_ERROR),
        (errno.ENOMEM, Drop.WRITE_ERROR),
        (errno.EAGAIN, Drop.WRITE_ERROR),
    ],
)
def test_errno_of_a_write_names_the_drop(faults: Faults, code: int, drop: Drop) -> None:
    """The second of three frames fails; its neighbours are none the wiser."""
    results = iter((None, code, None))

    def before_write(_fd: int) -> None:
        failure = next(results)
        if failure is not None:
            raise OSError(failure, os.strerror(failure))

    with bench() as it:
        it.open()
        faults.before_write = before_write
        for n in range(3):
            it.devices[0][0].send(frame(60, n))
        it.until(lambda: it.counters(0).read == 3)
        counters = it.counters(0)
        assert it.received(1) == [frame(60, 0), frame(60, 2)]
        assert counters.drops[drop] == 1
        assert counters.write_errors == ({code: 1} if drop is Drop.WRITE_ERROR else {})
        assert it.died == []


@pytest.mark.parametrize("code", [errno.EBADFD, errno.EFAULT])
def test_read_that_says_gone_is_told_once(faults: Faults, factory: LoopFactory, code: int) -> None:
    """What was read before it is judged; then nobody asks that device again, and the other end goes on."""
    with bench(factory) as it:
        it.open()
        asked: list[int] = []

        def before_read(fd: int) -> None:
            asked.append(fd)
            if fd == near and len(asked) > 1:
                raise OSError(code, os.strerror(code))

        near = it.fds[0][0].fileno()
        faults.before_read = before_read
        it.devices[0][0].send(frame(60, 1))
        it.devices[0][0].send(frame(60, 2))
        it.until(lambda: bool(it.died))
        for _ in range(5):
            it.turn()
        assert it.died == [0]
        assert asked == [near, near]
        assert it.received(1) == [frame(60, 1)]
        it.devices[1][0].send(frame(60, 3))
        it.until(lambda: it.counters(1).read == 1)
        assert it.wire.dry(0), "asked again, it is gone again"
        it.turn()
        assert it.died == [0]


def test_read_that_fails_otherwise_is_no_death(faults: Faults) -> None:
    with bench() as it:
        it.open()
        failures = [errno.ENOMEM, errno.EINTR]

        def before_read(_fd: int) -> None:
            if failures:
                raise OSError(failures.pop(), "for once")

        faults.before_read = before_read
        it.devices[0][0].send(frame(60, 1))
        it.until(lambda: it.counters(0).read == 1)
        assert it.received(1) == [frame(60, 1)]
        assert it.died == []
