"""Which offloads a TAP accepts, and the header's length that they ask for.

TUNSETOFFLOAD takes a word whole or refuses it whole. Tunnel offload is a trap: the kernel accepts it with a header
too short to carry it, and every read then fails with EFAULT and eats its frame.
"""

from __future__ import annotations

import errno
import os
import struct

import pytest

from tests.kernel.lib import House
from tests.kernel.tap import TUNSETOFFLOAD, TUNSETVNETHDRSZ, refusal
from tests.lib.wait import readable

CSUM, TSO4, TSO6, TSO_ECN, UFO, USO4, USO6, TUNNEL, TUNNEL_CSUM = (1 << bit for bit in range(9))
SAFE = CSUM | TSO4 | TSO6 | TSO_ECN | UFO | USO4 | USO6
ALL = SAFE | TUNNEL | TUNNEL_CSUM
HDR_TUNNEL = 24

FRAME = bytes.fromhex("ffffffffffff020000000001 88b5".replace(" ", "")) + bytes(46)


def names(word: int) -> str:
    return f"{word:#x}"


def test_the_words_have_these_values() -> None:
    assert (SAFE, ALL) == (0x7F, 0x1FF)


@pytest.mark.parametrize(
    "word", [0, 1, 3, 5, 7, 0xF, 0x61, 0x6F, 0x7F, 0x83, 0x87, 0xE1, 0x1E1, 0x1EF, 0x1FF], ids=names
)
def test_accepted(house: House, word: int) -> None:
    tap = house.tap(house.net())
    tap.ioctl_int(TUNSETVNETHDRSZ, HDR_TUNNEL)
    tap.ioctl(TUNSETOFFLOAD, word)


@pytest.mark.parametrize(
    "word",
    [
        pytest.param(TSO4, id="TSO4 without CSUM"),
        pytest.param(TSO6 | USO4 | USO6, id="much without CSUM"),
        pytest.param(UFO, id="UFO without CSUM"),
        pytest.param(TUNNEL, id="tunnel without CSUM"),
        pytest.param(CSUM | TSO_ECN, id="ECN without TSO"),
        pytest.param(CSUM | USO4, id="USO4 alone"),
        pytest.param(CSUM | USO6, id="USO6 alone"),
        pytest.param(ALL | 0x200, id="a bit too many"),
    ],
)
def test_refused(house: House, word: int) -> None:
    tap = house.tap(house.net())
    tap.ioctl_int(TUNSETVNETHDRSZ, HDR_TUNNEL)
    with refusal(errno.EINVAL):
        tap.ioctl(TUNSETOFFLOAD, word)


def test_tunnel_offload_with_a_short_header_loses_every_frame(house: House) -> None:
    net = house.net()
    tap = house.live_tap(net, "a")
    tap.ioctl(TUNSETOFFLOAD, ALL)  # accepted, with the default header of 10 bytes
    with net.packet("a") as sock:
        sock.send(FRAME)
        assert readable(tap.fd)
        with refusal(errno.EFAULT):
            tap.read()
        assert tap.drain() == []  # and it is not there for a second try

        tap.ioctl_int(TUNSETVNETHDRSZ, HDR_TUNNEL)
        sock.send(FRAME)
        assert readable(tap.fd)
        assert tap.read() == bytes(HDR_TUNNEL) + FRAME


def test_the_safe_word_goes_with_the_default_header(house: House) -> None:
    net = house.net()
    tap = house.live_tap(net, "a")
    tap.ioctl(TUNSETOFFLOAD, SAFE)
    with net.packet("a") as sock:
        sock.send(FRAME)
    assert readable(tap.fd)
    assert tap.read() == bytes(10) + FRAME


@pytest.mark.parametrize(
    ("size", "answer"),
    [(9, errno.EINVAL), (10, 0), (11, 0), (12, 0), (20, 0), (24, 0), (64, 0)],
)
def test_header_lengths(house: House, size: int, answer: int) -> None:
    """Ten bytes at least; the kernel fills what it does not know with zeros."""
    net = house.net()
    tap = house.live_tap(net, "a")
    if answer:
        with refusal(answer):
            tap.ioctl_int(TUNSETVNETHDRSZ, size)
        return
    tap.ioctl_int(TUNSETVNETHDRSZ, size)
    with net.packet("a") as sock:
        sock.send(FRAME)
    assert readable(tap.fd)
    assert tap.read() == bytes(size) + FRAME
    tap.write(FRAME, bytes(size))
    assert net.link("a").stats.rx_packets == 1


def test_header_length_is_read_at_each_frame(house: House) -> None:
    """A frame that waits is read behind a header of the length that holds at the read."""
    net = house.net()
    tap = house.live_tap(net, "a")
    with net.packet("a") as sock:
        sock.send(FRAME)
    assert readable(tap.fd)
    tap.ioctl_int(TUNSETVNETHDRSZ, HDR_TUNNEL)
    assert tap.read() == bytes(HDR_TUNNEL) + FRAME


def test_a_short_buffer_truncates_in_silence(house: House) -> None:
    net = house.net()
    tap = house.live_tap(net, "a")
    with net.packet("a") as sock:
        sock.send(FRAME)
    assert readable(tap.fd)
    assert os.read(tap.fd, 30) == bytes(10) + FRAME[:20]
    assert tap.drain() == []


def test_tunnel_gso_is_refused_behind_a_short_header(house: House) -> None:
    """A frame written with a tunnel's gso_type is one for receivers that know tunnels: EINVAL elsewhere."""
    net = house.net()
    tap = house.live_tap(net, "a")
    header = struct.pack("=BBHHHH", 1, 0x20 | 1, 54, 100, 34, 16)
    with refusal(errno.EINVAL):
        tap.write(FRAME + bytes(500), header)
