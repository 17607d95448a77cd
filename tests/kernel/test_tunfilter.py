"""vethd's filter in each of its forms, by what kernels since 5.2 offer: all of them do the same on this one.

Before 5.7 a program cannot read gso_size, and before 5.5 an array cannot be mapped. The verifier's refusal is real,
that of a field beyond the context; the refusal of the array's flag is made up.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import struct
import threading
from pathlib import Path

import pytest

from tests.kernel.lib import House, Net
from tests.kernel.tap import TUNSETOFFLOAD, Tap
from tests.kernel.test_filter import PACKET_VNET_HDR, SOL_PACKET
from tests.lib import rtnl
from tests.lib.frames import ETH_P_IP, ether, sized, tcp_partial
from tests.lib.rtnl import u32
from tests.lib.wait import DEADLINE_S, readable, wait_until
from vethd.kernel import tunfilter
from vethd.kernel.tunfilter import TunFilter
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs import open_pair

LIMIT = 1500 + 14 + 4
BEYOND = 4096  # no struct __sk_buff is that long
BULK = 1 << 20


@pytest.fixture(params=["mapped, gso_size", "mapped, gso_segs", "arrays, gso_size", "arrays, gso_segs"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have new filters take one of the forms."""
    form: str = request.param
    make = tunfilter._array

    def old(value_size: int, flags: int = 0) -> int:
        if flags:
            raise VethError(errno.EINVAL, "bpf")
        return make(value_size)

    if "arrays" in form:
        monkeypatch.setattr(tunfilter, "_array", old)
    if "gso_segs" in form:
        monkeypatch.setattr(tunfilter, "_SUPER_FRAME", ((BEYOND, 0), (tunfilter._SKB_GSO_SEGS, 1)))
    return form


@pytest.fixture
def road(house: House, form: str) -> tuple[Net, Tap]:  # noqa: ARG001 - the form of the filter
    """Return a sender with MTU 9000 before a receiver with 1500."""
    net = house.net()
    tap = house.live_tap(net, "a")
    net.set("a", (rtnl.IFLA_MTU, u32(9000)))
    return net, tap


def super_frame() -> tuple[bytes, bytes]:
    """Return a super-frame of TCP, and its header."""
    frame = ether(tcp_partial(("10.0.0.1", 1), ("10.0.0.2", 2), bytes(8000)), proto=ETH_P_IP)
    return frame, struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)


def fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_it_refuses_and_counts_and_takes_a_new_limit(road: tuple[Net, Tap]) -> None:
    net, tap = road
    refuse = TunFilter(tap.fd, LIMIT)
    with net.packet("a") as sock:
        for length in (60, LIMIT, LIMIT + 1, 9014):
            sock.send(sized(length))
        assert readable(tap.fd)
        assert tap.drain() == [sized(60), sized(LIMIT)]
        assert refuse.counts() == (2, 2)
        refuse.set_limit(1 << 40)
        sock.send(sized(9014))
        refuse.set_limit(100)
        sock.send(sized(101))
        assert readable(tap.fd)
        assert tap.drain() == [sized(9014)]
    assert refuse.counts() == (3, 3)
    stats = net.link("a").stats
    assert (stats.tx_packets, stats.tx_dropped) == (3, 3)


def test_a_super_frame_with_an_unchecked_header_passes(road: tuple[Net, Tap]) -> None:
    net, tap = road
    refuse = TunFilter(tap.fd, LIMIT)
    tap.ioctl(TUNSETOFFLOAD, 0x7F)
    frame, header = super_frame()
    with net.packet("a") as sock:
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.send(header + frame)
        assert readable(tap.fd)
        assert tap.read() == header + frame
        sock.send(bytes(10) + frame)
    assert refuse.counts() == (1, 1)


def test_a_super_frame_from_another_tap_passes(house: House, road: tuple[Net, Tap]) -> None:
    """Through a bridge, which forwards it with the header that was written."""
    net, tap = road
    refuse = TunFilter(tap.fd, LIMIT)
    tap.ioctl(TUNSETOFFLOAD, 0x7F)
    other = house.live_tap(net, "b")
    net.set("b", (rtnl.IFLA_MTU, u32(9000)))
    net.ip(
        "link add br0 mtu 9000 type bridge",
        *(f"link set dev {port} master br0" for port in "ab"),
        "link set dev br0 up",
    )
    frame, header = super_frame()
    other.write(frame, header)
    assert readable(tap.fd)
    assert tap.read() == header + frame
    other.write(frame)
    wait_until(lambda: refuse.counts().oversize == 1, what="the frame to be refused")
    assert refuse.counts().passed == 1


def test_its_fds_are_closed_with_it(house: House, form: str) -> None:
    tap = house.live_tap(house.net(), "a")
    before = fds()
    refuse = TunFilter(tap.fd, LIMIT)
    assert fds() == before + 2 * ("arrays" in form)
    gc.disable()
    try:
        del refuse
        assert fds() == before
    finally:
        gc.enable()


def test_tcp_passes_in_super_frames(house: House, form: str) -> None:  # noqa: ARG001 - the form of the filter
    """Over a pair: the limit is of the same MTU as the sender's, so nothing that TCP sends may be refused."""
    near, far = house.net(), house.net()

    def send(client: socket.socket) -> None:
        client.sendall(bytes(BULK))
        client.shutdown(socket.SHUT_WR)

    def transfer() -> int:
        with near.run(socket.create_server, ("10.9.0.1", 0)) as server:
            server.settimeout(DEADLINE_S)
            with far.run(socket.create_connection, server.getsockname(), DEADLINE_S) as client:
                sink, _ = server.accept()
                for end in (client, sink):  # close by RST: a socket that waits for the last ACK keeps its namespace
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sender = threading.Thread(target=send, args=(client,))
                sender.start()
                with sink:
                    sink.settimeout(DEADLINE_S)
                    arrived = sum(iter(lambda: len(sink.recv(1 << 16)), 0))
                sender.join()
                return arrived

    async def run() -> None:
        spec = PairSpec(
            name="va", netns=str(near.path), up=True, peer=LinkSpec(name="vb", netns=str(far.path), up=True)
        )
        async with open_pair(spec):
            near.ip("addr add 10.9.0.1/24 dev va")
            far.ip("addr add 10.9.0.2/24 dev vb")
            assert await asyncio.to_thread(transfer) == BULK
            stats = far.link("vb").stats
            assert stats.tx_dropped == 0
            assert stats.tx_bytes > 1.5 * LIMIT * stats.tx_packets

    asyncio.run(run())


def test_any_other_error_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    tap = house.tap(house.net())
    before = fds()

    def fail(value_size: int, flags: int = 0) -> int:
        raise VethError(errno.EPERM, f"bpf {value_size} {flags}")

    with monkeypatch.context() as patched:
        patched.setattr(tunfilter, "_SUPER_FRAME", ((BEYOND, 0), (BEYOND, 1)))
        with pytest.raises(VethError) as refusal:
            TunFilter(tap.fd, LIMIT)
        assert refusal.value.errno == errno.EACCES
        patched.setattr(tunfilter, "_array", fail)
        with pytest.raises(VethError) as refusal:
            TunFilter(tap.fd, LIMIT)
        assert refusal.value.errno == errno.EPERM
    del refusal
    gc.collect()
    assert fds() == before
