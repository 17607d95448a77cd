"""Every errno that a read or a write of the native engine can answer, by files that really answer it.

What a lane writes to is a number: a test puts another file there (dup2) when the next error is to be another.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.lib import engines
from tests.lib.sockwire import frame
from tests.lib.wait import readable, wait_until
from tests.lib.yard import Yard, counters, settled
from vethd.model.drops import Drop

NO_FILE = 1 << 20  # a number beyond what a descriptor may be


@pytest.fixture
def yard() -> Iterator[Yard]:
    it = Yard(engines.native())
    yield it
    it.close()


# Errors of a write


def kinds(yard: Yard) -> dict[int, tuple[Callable[[], int], bytes]]:
    """Give, for every errno, what makes a file whose write answers it, and the frame to write."""
    small = frame(60)

    def full() -> int:
        fd = yard.pair(room=4096)[1]
        while True:
            try:
                os.write(fd, bytes(1000))
            except BlockingIOError:
                return fd

    def refused() -> int:
        device, fd = yard.pair(socket.SOCK_DGRAM)
        yard.fds.remove(device)
        os.close(device)
        return fd

    def not_connected() -> int:
        fd = refused()
        try:
            os.write(fd, b"1")
        except ConnectionRefusedError:
            return fd
        raise AssertionError

    def hung_up() -> int:
        device, fd = yard.pair()
        yard.fds.remove(device)
        os.close(device)
        return fd

    def nowhere() -> int:
        return yard.own(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach())

    def disk_full() -> int:
        return yard.own(os.open("/dev/full", os.O_WRONLY))

    def sealed() -> int:
        fd = yard.own(os.memfd_create("sealed", os.MFD_ALLOW_SEALING))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        return fd

    def reset() -> int:
        with socket.create_server(("127.0.0.1", 0)) as server:
            sock = socket.create_connection(server.getsockname())
            other, _ = server.accept()
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.close()
        assert readable(sock.fileno())
        return yard.own(sock.detach())

    return {
        errno.EAGAIN: (full, small),
        errno.ECONNREFUSED: (refused, small),
        errno.ENOTCONN: (not_connected, small),
        errno.EPIPE: (hung_up, small),
        errno.EMSGSIZE: (lambda: yard.pair(room=4096)[1], frame(60_000)),
        errno.EDESTADDRREQ: (nowhere, small),
        errno.ENOSPC: (disk_full, small),
        errno.EPERM: (sealed, small),
        errno.ECONNRESET: (reset, small),
    }


def test_every_errno_has_its_count(yard: Yard) -> None:
    """By the calling thread's writes."""
    device, src = yard.pair()
    sink = yard.own(os.open("/dev/null", os.O_RDWR))
    lane = yard.lane(src, sink)
    expected: dict[int, int] = {}
    for code, (make, data) in kinds(yard).items():
        os.dup2(make(), sink)
        os.write(device, data)
        assert lane.dry()
        expected[code] = 1
        assert counters(lane).write_errors == expected
    assert sum(expected.values()) == 9
    os.dup2(kinds(yard)[errno.EPIPE][0](), sink)
    os.write(device, frame(60))
    assert lane.dry()
    assert counters(lane).write_errors == expected | {errno.EPIPE: 2}


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ECONNREFUSED, errno.ENOTCONN, errno.EPIPE, errno.EMSGSIZE])
def test_errno_from_the_worker(yard: Yard, code: int) -> None:
    """And the frame behind it goes where it should."""
    device, src = yard.pair()
    make, data = kinds(yard)[code]
    sink = make()
    lane = yard.lane(src, sink)
    yard.begin()
    os.write(device, data)
    assert settled(lane, 1).write_errors == {code: 1}
    end, good = yard.pair()
    os.dup2(good, sink)
    os.write(device, frame(60, 5))
    assert settled(lane, 2).forwarded == 1
    assert os.read(end, 1000) == frame(60, 5)


def test_einval_is_the_kernel_s_opinion_of_the_header(yard: Yard) -> None:
    """Here an eventfd's, of the one number that it does not take."""
    device, src = yard.pair()
    sink = yard.own(os.eventfd(0, os.EFD_NONBLOCK))
    lane = yard.lane(src, sink)
    os.write(device, b"\xff" * 8 + frame(60)[8:])
    assert lane.dry()
    assert counters(lane).drops[Drop.BAD_VNET_HEADER] == 1


@pytest.mark.parametrize("by_worker", [False, True])
@pytest.mark.parametrize("what", ["closed", "gone"])
def test_sink_without_a_device_is_no_peer(yard: Yard, what: str, by_worker: bool) -> None:
    """EBADF of a descriptor that is none, EBADFD of a tun file without a device."""
    device, src = yard.pair()
    sink = NO_FILE if what == "closed" else yard.own(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
    lane = yard.lane(src, sink)
    if by_worker:
        yard.begin()
    os.write(device, frame(60))
    assert by_worker or lane.dry()
    assert settled(lane, 1).drops[Drop.NO_PEER] == 1
    assert yard.worker.take_dead() == [], "a write tells of no death: the other lane's read does"


# Death


@pytest.mark.parametrize("by_worker", [False, True])
def test_source_that_is_closed_is_dead(yard: Yard, by_worker: bool) -> None:
    """EBADF, which a caller that kept the rules never sees."""
    lane = yard.lane(NO_FILE, NO_FILE, tag=7)
    if by_worker:
        yard.begin()
    assert by_worker or lane.dry()
    assert readable(yard.worker.news_fd)
    assert yard.worker.take_dead() == [7]
    assert lane.dry()
    assert yard.worker.take_dead() == []
    assert not readable(yard.worker.news_fd, 0)


def test_many_deaths_are_told_once_each(yard: Yard) -> None:
    fd = yard.own(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
    for tag in range(100):
        source = yard.own(os.dup(fd))
        yard.lane(source, source, tag=tag)
    yard.begin()
    told: list[int] = []

    def all_told() -> bool:
        told.extend(yard.worker.take_dead())
        return len(told) == 100

    wait_until(all_told, wake=yard.worker.news_fd)
    assert sorted(told) == list(range(100))


def test_death_of_a_lane_that_is_closed_is_not_told(yard: Yard) -> None:
    fd = yard.own(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
    sources = [yard.own(os.dup(fd)) for _ in range(5)]
    lanes = [yard.lane(source, source, tag=tag) for tag, source in enumerate(sources)]
    yard.begin()
    for lane in lanes:
        lane.dry()
    for lane in lanes[1:4]:
        lane.close()
    assert sorted(yard.worker.take_dead()) == [0, 4]
