"""The virtio_net_hdr: layout to the bit, and the rule of acceptance against one written anew from the kernel's."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vethd.model import vnet
from vethd.model.vnet import HDR_LEN, HDR_LEN_TUNNEL, VnetHdr, acceptable

u8 = st.integers(0, 255)
u16 = st.integers(0, 65535)
near = st.integers(0, 120)  # about as long as the frames below, so that both sides of each rule are met
gso_types = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 0x20, 0x21, 0x40, 0x45, 0x80, 0x81, 0x84, 0x85, 0xA1]) | u8
headers = st.builds(VnetHdr, u8, gso_types, near | u16, near | u16, near | u16, st.sampled_from([6, 16]) | u16)


def test_field_by_field() -> None:
    raw = bytes([1, 4]) + b"".join(number.to_bytes(2, sys.byteorder) for number in (86, 1428, 54, 16))
    header = VnetHdr(flags=1, gso_type=4, hdr_len=86, gso_size=1428, csum_start=54, csum_offset=16)
    assert VnetHdr.parse(raw) == header
    assert header.pack() == raw


@given(headers, st.sampled_from([HDR_LEN, 12, HDR_LEN_TUNNEL]), st.binary(max_size=20))
def test_round_trip(header: VnetHdr, length: int, behind: bytes) -> None:
    raw = header.pack(length)
    assert len(raw) == length
    assert raw[HDR_LEN:] == bytes(length - HDR_LEN)
    for kind in (bytes, bytearray, memoryview):
        assert VnetHdr.parse(kind(raw + behind)) == header


@given(st.binary(min_size=HDR_LEN, max_size=HDR_LEN))
def test_every_ten_bytes_are_a_header(raw: bytes) -> None:
    assert VnetHdr.parse(raw).pack() == raw


@given(st.binary(max_size=HDR_LEN - 1))
def test_fewer_are_none(raw: bytes) -> None:
    with pytest.raises(struct.error):
        VnetHdr.parse(raw)


def oracle(header: VnetHdr, frame_len: int) -> bool:
    """Say what tun_get_user() says, in its order: lengths first, then the GSO type."""
    needed = header.hdr_len
    if header.flags & 1:
        needed = max(needed, header.csum_start + header.csum_offset + 2)
    if needed > frame_len:
        return False
    if header.gso_type == 0:
        return True
    without_modifiers = header.gso_type & 0b0001_1111
    return without_modifiers in (1, 3, 4, 5) and header.gso_size > 0


@given(headers, st.integers(14, 120) | u16)
@example(VnetHdr(gso_type=0x80), 60)  # ECN alone
@example(VnetHdr(gso_type=0x20, gso_size=100), 60)  # a tunnel of nothing
@example(VnetHdr(flags=1, csum_start=65535, csum_offset=65535), 65535)  # must not wrap around
def test_acceptable_is_what_the_kernel_says(header: VnetHdr, frame_len: int) -> None:
    assert header.acceptable(frame_len) == oracle(header, frame_len)
    assert acceptable(header.pack(HDR_LEN_TUNNEL) + bytes(3), frame_len) == oracle(header, frame_len)


@pytest.mark.parametrize(
    ("header", "least"),
    [
        pytest.param(VnetHdr(hdr_len=54), 54, id="hdr_len"),
        pytest.param(VnetHdr(flags=1, csum_start=34, csum_offset=16), 52, id="checksum"),
        pytest.param(VnetHdr(flags=1, hdr_len=60, csum_start=34, csum_offset=16), 60, id="the longer of both"),
        pytest.param(VnetHdr(flags=2, csum_start=34, csum_offset=16), 0, id="a verified checksum lies nowhere"),
        pytest.param(VnetHdr(1, vnet.GSO_TCPV4, 66, 1448, 34, 16), 66, id="TCP segments"),
    ],
)
def test_boundaries_to_the_byte(header: VnetHdr, least: int) -> None:
    assert header.acceptable(least)
    assert not least or not header.acceptable(least - 1)


@given(headers, u8)
def test_flags_but_needs_csum_do_not_matter(header: VnetHdr, flags: int) -> None:
    other = header._replace(flags=flags & ~1 | header.flags & 1)
    assert header.acceptable(1514) == other.acceptable(1514)
