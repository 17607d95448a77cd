"""Every engine when a read or a write fails: what the errno is counted as, who is told of a death, who is not.

The asyncio engine is given any errno at any place, by a FileIO that raises; the native one only such as the kernel
really answers (tests/unit/test_native_errors.py and tests/system/test_engine_tap.py have more of those).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO

import pytest

from tests.lib.sockwire import LOOPS, LoopFactory, bench, frame
from tests.lib.wait import readable
from vethd.datapath import aio
from vethd.model.drops import Drop


@pytest.fixture(params=list(LOOPS))
def factory(request: pytest.FixtureRequest) -> LoopFactory:
    return LOOPS[request.param]


def test_full_receiver_is_a_write_error_with_its_errno(factory: LoopFactory, engine: str) -> None:
    """Frames that found no room are gone and counted; the engine neither waits nor tries again."""
    with bench(factory, engine=engine) as it:
        it.open()
        it.fds[1][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        for n in range(100):
            it.devices[0][0].send(frame(1000, n))
        it.settle(100)
        counters = it.counters(0)
        assert counters.forwarded > 0
        assert counters.write_errors == {errno.EAGAIN: 100 - counters.forwarded}
        assert it.received(1) == [frame(1000, n) for n in range(counters.forwarded)]
        it.devices[0][0].send(frame(100, 9))
        it.settle(101)
        assert it.received(1) == [frame(100, 9)]


def test_receiver_that_hung_up_is_a_write_error_with_its_errno(factory: LoopFactory, engine: str) -> None:
    with bench(factory, kind=socket.SOCK_DGRAM, engine=engine) as it:
        it.open()
        it.devices[1][0].close()
        for _ in range(3):
            it.devices[0][0].send(frame(60))
        it.settle(3)
        assert it.counters(0).write_errors == {errno.ECONNREFUSED: 1, errno.ENOTCONN: 2}
        assert it.died == []


@pytest.fixture
def tun() -> Iterator[int]:
    """Yield a tun file without a device: whatever is asked of it, it answers EBADFD, like one whose device is gone."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def test_device_that_is_gone_is_told_once(factory: LoopFactory, engine: str, tun: int) -> None:
    """And what the other end sends is dropped: it has no peer."""
    with bench(factory, engine=engine) as it:
        it.wire.close()
        it.wire = it.engine.join(([it.fds[0][0].fileno()], [tun]), 10, it.died.append)
        it.open()
        it.until(lambda: bool(it.died))
        for n in range(3):
            it.devices[0][0].send(frame(60, n))
        it.settle(3)
        assert it.counters(0).drops[Drop.NO_PEER] == 3
        assert it.wire.dry(1), "asked again, it is gone again"
        for _ in range(5):
            it.turn()
        assert it.died == [1]


def test_nobody_hears_of_a_death_after_close(factory: LoopFactory, engine: str, tun: int) -> None:
    with bench(factory, engine=engine) as it:
        it.wire.close()
        wire = it.engine.join(([it.fds[0][0].fileno()], [tun]), 10, it.died.append, (None, None))
        wire.dry(1)
        wire.close()
        for _ in range(5):
            it.turn()
        assert it.died == []


def test_read_that_fails_for_once_is_no_death(engine: str) -> None:
    """A UDP socket's read answers ECONNREFUSED for what was sent before; what it has received is read afterwards.

    Not on uvloop: libuv looks no more at a descriptor that shows POLLERR, which a TAP does only when it is gone.
    """
    with ExitStack() as stack:
        it = stack.enter_context(bench(engine=engine))
        device, fd = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        device.bind(("127.0.0.1", 0))
        fd.bind(("127.0.0.1", 0))
        fd.setblocking(False)
        fd.connect(device.getsockname())
        it.wire.close()
        it.wire = it.engine.join(([fd.fileno()], [it.fds[1][0].fileno()]), 10, it.died.append, (None, None))
        it.wire.set_limit(0, 1518)
        port = device.getsockname()
        device.close()
        fd.send(b"nobody is there")
        assert readable(fd.fileno()), "the answer"
        again = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        again.bind(port)
        again.sendto(frame(60, 1), fd.getsockname())
        it.settle(1)
        assert it.received(1) == [frame(60, 1)]
        assert it.counters(0).read == 1
        assert it.died == []
        it.wire.close()


def fine(_fd: int) -> None:
    """Let a read or a write be what it is."""


@dataclass
class Faults:
    """What is called before every read and every write of a device: it may raise."""

    before_read: Callable[[int], None] = fine
    before_write: Callable[[int], None] = fine


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Return the faults of all wires that are made from now on."""
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


def test_device_that_is_being_unregistered_is_told_once(faults: Faults, factory: LoopFactory, tun: int) -> None:
    """A read still answers EAGAIN then, and POLLERR alone is the death (tests/kernel/test_pinning.py)."""

    def before_read(fd: int) -> None:
        if fd == tun:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with bench(factory) as it:
        it.wire.close()
        faults.before_read = before_read
        it.wire = it.engine.join(([it.fds[0][0].fileno()], [tun]), 10, it.died.append, (None, None))
        it.until(lambda: bool(it.died))
        for _ in range(5):
            it.turn()
        assert it.died == [1]


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
