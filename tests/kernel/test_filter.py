"""TUNSETFILTEREBPF: a TAP refuses a frame before userspace pays for it, and its sender counts a drop.

The program sees the frame as the device sends it: length with the Ethernet header and without a VLAN tag that is
still beside the frame, gso_size 0 unless it is a super-frame. It answers how many bytes stay; none is a drop.
That is just what veth does with a frame that its peer's MTU forbids, down to the counter.
"""

from __future__ import annotations

import errno
import os
import struct

import pytest

from tests.kernel.lib import House, Net
from tests.kernel.tap import TUNSETFILTEREBPF, TUNSETOFFLOAD, Tap, refusal
from tests.lib import bpf, rtnl
from tests.lib.bpf import insn
from tests.lib.frames import ETH_P_IP, ether, sized, tcp_partial
from tests.lib.rtnl import u32
from tests.lib.wait import readable

LIMIT = 1500 + 14 + 4
PACKET_VNET_HDR = 15
SOL_PACKET = 263
KEEP = -1  # as unsigned more than any length: the frame is not trimmed

# struct __sk_buff in include/uapi/linux/bpf.h
SKB_LEN = 0
SKB_GSO_SIZE = 176


def oversize_filter(limit: int) -> bytes:
    """Return a program that refuses frames without GSO of more than limit bytes, Ethernet header counted."""
    return b"".join(
        (
            insn(bpf.LDX_W, 2, 1, SKB_GSO_SIZE),  # r2 = ctx->gso_size
            insn(bpf.JNE_K, 2, off=4, imm=0),  # if r2 != 0 goto keep
            insn(bpf.LDX_W, 2, 1, SKB_LEN),  # r2 = ctx->len
            insn(bpf.JLE_K, 2, off=2, imm=limit),  # if r2 <= limit goto keep
            bpf.returning(0),
            bpf.returning(KEEP),  # keep:
        )
    )


def install(tap: Tap, program: bytes) -> None:
    """Give a TAP a filter; the device keeps the program when its descriptor is closed."""
    fd = bpf.load(program)
    try:
        tap.ioctl_int(TUNSETFILTEREBPF, fd)
    finally:
        os.close(fd)


@pytest.fixture
def road(house: House) -> tuple[Net, Tap]:
    """Return a sender with MTU 9000 before a receiver with 1500."""
    net = house.net()
    tap = house.live_tap(net, "a")
    net.set("a", (rtnl.IFLA_MTU, u32(9000)))
    install(tap, oversize_filter(LIMIT))
    return net, tap


@pytest.mark.parametrize(("length", "passes"), [(60, True), (LIMIT, True), (LIMIT + 1, False), (9014, False)])
def test_to_the_byte(road: tuple[Net, Tap], length: int, passes: bool) -> None:
    net, tap = road
    with net.packet("a") as sock:
        sock.send(sized(length))
        sock.send(sized(60, seed=1))  # comes behind, so the first one's fate is known
    assert readable(tap.fd)
    assert tap.drain() == [sized(length)] * passes + [sized(60, seed=1)]
    stats = net.link("a").stats
    assert (stats.tx_packets, stats.tx_dropped) == (1 + passes, 1 - passes)


def test_a_super_frame_passes(road: tuple[Net, Tap]) -> None:
    net, tap = road
    tap.ioctl(TUNSETOFFLOAD, 0x7F)
    frame = ether(tcp_partial(("10.0.0.1", 1), ("10.0.0.2", 2), bytes(8000)), proto=ETH_P_IP)
    header = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)
    with net.packet("a") as sock:
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.send(header + frame)
    assert readable(tap.fd)
    assert tap.read() == header + frame
    assert net.link("a").stats.tx_dropped == 0


def test_a_drop_is_the_senders_and_veths_is_too(house: House, road: tuple[Net, Tap]) -> None:
    """With noqueue both tell the sender too. veth's peer counts rx_dropped besides: no TAP can be made to here."""
    net, _ = road
    net.noqueue("a")
    other = house.net()
    other.ip("link add name a mtu 9000 type veth peer name b", "link set dev a up", "link set dev b up")
    house.wait_sending(other, "a")
    for place in (net, other):
        with place.packet("a") as sock, refusal(errno.ENOBUFS):
            sock.send(sized(LIMIT + 1))
        stats = place.link("a").stats
        assert (stats.tx_packets, stats.tx_bytes, stats.tx_dropped, stats.tx_errors) == (0, 0, 1, 0)
    assert other.link("b").stats.rx_dropped == 1


def test_another_limit_replaces_the_program_at_once(road: tuple[Net, Tap]) -> None:
    net, tap = road
    install(tap, oversize_filter(100))
    with net.packet("a") as sock:
        for length in (101, 100):
            sock.send(sized(length))
    assert readable(tap.fd)
    assert tap.drain() == [sized(100)]


def test_minus_one_takes_the_filter_away(road: tuple[Net, Tap]) -> None:
    net, tap = road
    tap.ioctl_int(TUNSETFILTEREBPF, -1)
    with net.packet("a") as sock:
        sock.send(sized(9014))
    assert readable(tap.fd)
    assert tap.drain() == [sized(9014)]


def test_an_answer_shorter_than_the_frame_trims_it(road: tuple[Net, Tap]) -> None:
    """So "keep" must be more than any length, not merely true."""
    net, tap = road
    install(tap, bpf.returning(20))
    with net.packet("a") as sock:
        sock.send(sized(60))
    assert readable(tap.fd)
    assert tap.drain() == [sized(60)[:20]]


def test_without_a_carrier_the_filter_is_not_asked(house: House, road: tuple[Net, Tap]) -> None:
    """The drop is counted once, whichever the reason."""
    net, tap = road
    tap.carrier(False)
    house.wait_silent(net, "a")
    with net.packet("a") as sock:
        sock.send(sized(9014))
    assert net.link("a").stats.tx_dropped == 1


def test_filter_survives_a_move(house: House, road: tuple[Net, Tap]) -> None:
    net, tap = road
    target = house.net()
    net.move("a", target)
    target.up("a")
    house.wait_sending(target, "a")
    with target.packet("a") as sock:
        sock.send(sized(LIMIT + 1))
        sock.send(sized(LIMIT))
    assert readable(tap.fd)
    assert tap.drain() == [sized(LIMIT)]


def test_a_descriptor_that_is_no_program_is_refused(house: House) -> None:
    net = house.net()
    tap = house.tap(net)
    with refusal(errno.EINVAL):
        tap.ioctl_int(TUNSETFILTEREBPF, net.fd)
