"""What a write to a TAP answers: the receiving half of a pair, as the kernel judges it.

The carrier stops the kernel's own sending and nothing else: a write is delivered without one. Admin down is EIO,
counted by the device in rx_dropped. A frame or header that makes no sense is EINVAL and counted by nobody.
"""

from __future__ import annotations

import errno
import os
import struct

import pytest

from tests.kernel.lib import House
from tests.kernel.tap import TUNSETVNETHDRSZ, VNET_HDR, Tap, refusal
from tests.lib.frames import ANY_DST, ETH_P_IP, ether, sized, tcp_partial, udp
from tests.lib.wait import readable

NEEDS_CSUM, DATA_VALID = 1, 2
TCPV4, UDP_UFO, UDP_L4, ECN = 1, 3, 5, 0x80
TCP_FRAME = ether(tcp_partial(("10.0.0.1", 1), ("10.0.0.2", 2), bytes(2000)), proto=ETH_P_IP)
UDP_FRAME = ether(udp(("10.0.0.1", 1), ("10.0.0.2", 2), bytes(2000), partial=True), proto=ETH_P_IP)
TCP_CSUM, UDP_CSUM = (34, 16), (34, 6)


def vnet(flags: int = 0, gso: int = 0, hdr_len: int = 0, size: int = 0, csum: tuple[int, int] = (0, 0)) -> bytes:
    return struct.pack("=BBHHHH", flags, gso, hdr_len, size, *csum)


def answer(tap: Tap, header: bytes, frame: bytes) -> int:
    try:
        tap.write(frame, header)
    except OSError as error:
        return error.errno or 0
    return 0


def test_delivered_without_a_carrier(house: House) -> None:
    net = house.net()
    tap = house.tap(net, "a")
    net.up("a")
    with net.ear("a") as ear:
        tap.write(sized(60))
        assert ear.recv(100) == sized(60)
    link = net.link("a")
    assert (link.carrier, link.stats.rx_packets, link.stats.rx_dropped) == (False, 1, 0)


def test_what_no_protocol_wants_is_dropped_by_the_receiver_too(house: House) -> None:
    """So rx_dropped alone does not tell EIO: a stack without a taker for the frame counts there as well."""
    net = house.net()
    tap = house.live_tap(net, "a")
    tap.write(sized(60))
    stats = net.link("a").stats
    assert (stats.rx_packets, stats.rx_dropped) == (1, 1)


def test_eio_while_admin_down_and_the_receiver_counts(house: House) -> None:
    net = house.net()
    tap = house.tap(net, "a")
    assert answer(tap, VNET_HDR, sized(60)) == errno.EIO
    stats = net.link("a").stats
    assert (stats.rx_packets, stats.rx_dropped) == (0, 1)


def test_any_length_is_taken_whatever_the_mtu(house: House) -> None:
    """A veth would drop it: whoever forwards must look at the receiver's MTU himself."""
    net = house.net()
    tap = house.live_tap(net, "a")
    assert net.link("a").mtu == 1500
    lengths = (14, 1514, 1518, 1519, 9000, 65000)
    for length in lengths:
        tap.write(sized(length))
    stats = net.link("a").stats
    assert (stats.rx_packets, stats.rx_bytes) == (len(lengths), sum(lengths))


@pytest.mark.parametrize("length", [0, 1, 13])
def test_less_than_an_ethernet_header(house: House, length: int) -> None:
    net = house.net()
    tap = house.live_tap(net, "a")
    assert answer(tap, VNET_HDR, bytes(length)) == errno.EINVAL
    stats = net.link("a").stats
    assert (stats.rx_packets, stats.rx_dropped, stats.rx_errors) == (0, 0, 0)


@pytest.mark.parametrize("length", [0, 9])
def test_less_than_a_vnet_header(house: House, length: int) -> None:
    tap = house.live_tap(house.net(), "a")
    with refusal(errno.EINVAL):
        os.write(tap.fd, bytes(length))


BAD = {
    "gso without a size": vnet(NEEDS_CSUM, TCPV4, 54, 0, TCP_CSUM),
    "gso_type 2": vnet(NEEDS_CSUM, 2, 54, 1448, TCP_CSUM),
    "gso_type 6": vnet(NEEDS_CSUM, 6, 54, 1448, TCP_CSUM),
    "ECN alone": vnet(NEEDS_CSUM, ECN, 54, 1448, TCP_CSUM),
    "hdr_len past the end": vnet(NEEDS_CSUM, 0, len(TCP_FRAME) + 1, 0, TCP_CSUM),
    "hdr_len past the end, nothing else": vnet(0, 0, len(TCP_FRAME) + 1),
    "checksum past the end": vnet(NEEDS_CSUM, 0, 0, 0, (len(TCP_FRAME) - 17, 16)),
    "checksum start past the end": vnet(NEEDS_CSUM, 0, 0, 0, (len(TCP_FRAME) + 1, 0)),
    "checksum far past the end": vnet(NEEDS_CSUM, 0, 0, 0, (65535, 65535)),
}
GOOD = {
    "nothing": vnet(),
    "checksum to complete": vnet(NEEDS_CSUM, 0, 0, 0, TCP_CSUM),
    "checksum verified": vnet(DATA_VALID),
    "TCP segments": vnet(NEEDS_CSUM, TCPV4, 54, 1448, TCP_CSUM),
    "TCP segments with ECN": vnet(NEEDS_CSUM, TCPV4 | ECN, 54, 1448, TCP_CSUM),
    "hdr_len is the frame": vnet(0, 0, len(TCP_FRAME)),
    "checksum in the last two bytes": vnet(NEEDS_CSUM, 0, 0, 0, (len(TCP_FRAME) - 18, 16)),
    "flags unknown": vnet(0x70),
    "gso_size without gso": vnet(0, 0, 0, 1448),
}


@pytest.mark.parametrize("header", BAD.values(), ids=BAD)
def test_bad_headers_are_einval_and_nobody_counts(house: House, header: bytes) -> None:
    net = house.net()
    tap = house.live_tap(net, "a")
    assert answer(tap, header, TCP_FRAME) == errno.EINVAL
    stats = net.link("a").stats
    assert (stats.rx_packets, stats.rx_dropped, stats.rx_errors) == (0, 0, 0)


@pytest.mark.parametrize("header", GOOD.values(), ids=GOOD)
def test_good_headers(house: House, header: bytes) -> None:
    net = house.net()
    tap = house.live_tap(net, "a")
    assert answer(tap, header, TCP_FRAME) == 0
    assert net.link("a").stats.rx_packets == 1


def test_a_super_frame_counts_once_with_all_its_bytes(house: House) -> None:
    net = house.net()
    tap = house.live_tap(net, "a")
    assert answer(tap, vnet(NEEDS_CSUM, UDP_L4, 42, 500, UDP_CSUM), UDP_FRAME) == 0
    stats = net.link("a").stats
    assert (stats.rx_packets, stats.rx_bytes) == (1, len(UDP_FRAME))


def test_the_queue_is_read_down_to_the_last_frame_when_admin_down(house: House) -> None:
    """What waits stays readable through carrier off and admin down; then the queue is dry, not broken."""
    net = house.net()
    tap = house.live_tap(net, "a")
    with net.packet("a") as sock:
        for seed in range(3):
            sock.send(sized(60, seed))
    assert readable(tap.fd)
    tap.carrier(False)
    net.down("a")
    assert tap.drain() == [sized(60, seed) for seed in range(3)]
    with pytest.raises(BlockingIOError):
        tap.read()


def test_destination_is_not_looked_at(house: House) -> None:
    """A frame for another station is counted as received: it is the stack above that drops it."""
    net = house.net()
    tap = house.live_tap(net, "a")
    assert net.link("a").address != ANY_DST
    tap.write(sized(60))
    assert net.link("a").stats.rx_packets == 1


def test_a_longer_header_is_asked_for_whole(house: House) -> None:
    tap = house.live_tap(house.net(), "a")
    tap.ioctl_int(TUNSETVNETHDRSZ, 24)
    with refusal(errno.EINVAL):
        os.write(tap.fd, bytes(23))
