"""The verdict on one frame, against an oracle written from veth's words, and to the byte at its boundaries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vethd.model.drops import DROPS, Drop, KernelDrop
from vethd.model.verdict import Road, Verdict, forward_limit, verdict
from vethd.model.vnet import VnetHdr

ARP, TAGGED, DOUBLE = b"\x08\x06", b"\x81\x00", b"\x88\xa8"
GSO = VnetHdr(flags=1, gso_type=1, hdr_len=54, gso_size=1448, csum_start=34, csum_offset=16)
OPEN = Road(None, forward_limit(1500))


def frame(length: int, ethertype: bytes = ARP) -> bytes:
    return (bytes(12) + ethertype).ljust(length, b"\x55")[:length]


def read(header: VnetHdr, payload: bytes, size: int = 10) -> bytes:
    return header.pack(size) + payload


def oracle(data: bytes, road: Road) -> Verdict:
    """Judge again, one question after the other, by other means."""
    if road.gate is not None:
        return Verdict(road.gate)
    payload = data[road.vnet_hdr_len :]
    if len(data) < road.vnet_hdr_len:
        return Verdict(Drop.BAD_VNET_HEADER)
    if len(payload) < 14:
        return Verdict(Drop.RUNT)
    flags, gso_type = data[0], data[1]
    hdr_len, gso_size, start, offset = memoryview(data[2:10]).cast("H").tolist()
    gso = gso_type != 0
    places = [hdr_len] + ([start + offset + 2] if flags % 2 else [])
    if max(places) > len(payload) or (gso and (gso_type % 32 not in {1, 3, 4, 5} or not gso_size)):
        return Verdict(Drop.BAD_VNET_HEADER)
    counted = len(payload)
    if payload[12:14] in {TAGGED, DOUBLE} and counted > road.limit:
        counted -= 4
    if counted > road.limit and not gso:
        return Verdict(Drop.OVERSIZE)
    return Verdict(None, 2 if road.trust and not flags else flags)


small = st.integers(0, 90)
sizes = st.sampled_from([10, 12, 24])
gates = st.sampled_from([None, None, None, *Drop])
vnet_headers = st.builds(
    VnetHdr,
    st.sampled_from([0, 1, 2, 3]) | st.integers(0, 255),
    st.sampled_from([0, 0, 0, 1, 4, 5, 0x81, 2, 0x80]) | st.integers(0, 255),
    st.just(0) | small,
    st.just(0) | small,
    small,
    st.sampled_from([6, 16]),
)
ethertypes = st.sampled_from([ARP, TAGGED, DOUBLE, b"\x81\x01", b"\x00\x81"])


@given(
    vnet_headers,
    st.builds(frame, st.integers(0, 110), ethertypes),
    st.builds(Road, gates, st.integers(50, 100), st.booleans(), sizes),
)
def test_verdict_is_the_oracles(header: VnetHdr, payload: bytes, road: Road) -> None:
    data = read(header, payload, road.vnet_hdr_len)
    assert verdict(data, road) == oracle(data, road)


@given(st.binary(max_size=60), st.builds(Road, gates, st.integers(20, 40), st.booleans(), sizes))
def test_any_bytes_have_a_verdict(data: bytes, road: Road) -> None:
    assert verdict(data, road) == oracle(data, road)


def test_limit_is_mtu_and_header_and_tag() -> None:
    assert [forward_limit(mtu) for mtu in (68, 1500, 65521)] == [86, 1518, 65539]


@pytest.mark.parametrize(
    ("length", "ethertype", "drop"),
    [
        (1514, ARP, None),
        (1518, ARP, None),
        (1519, ARP, Drop.OVERSIZE),
        (1518, TAGGED, None),
        (1522, TAGGED, None),  # the tag was beside the frame when the sender's stack measured it
        (1523, TAGGED, Drop.OVERSIZE),
        (1522, DOUBLE, None),
        (1523, DOUBLE, Drop.OVERSIZE),
        (65535, ARP, Drop.OVERSIZE),
    ],
)
def test_oversize_to_the_byte(length: int, ethertype: bytes, drop: Drop | None) -> None:
    assert verdict(read(VnetHdr(), frame(length, ethertype)), OPEN) == Verdict(drop)


@pytest.mark.parametrize(("length", "drop"), [(0, Drop.RUNT), (13, Drop.RUNT), (14, None), (15, None)])
@pytest.mark.parametrize("size", [10, 24])
def test_runt_to_the_byte(length: int, size: int, drop: Drop | None) -> None:
    road = OPEN._replace(vnet_hdr_len=size)
    assert verdict(read(VnetHdr(), frame(length), size), road) == Verdict(drop)


@pytest.mark.parametrize("size", [10, 24])
def test_less_than_a_header(size: int) -> None:
    road = OPEN._replace(vnet_hdr_len=size)
    assert verdict(bytes(size - 1), road) == Verdict(Drop.BAD_VNET_HEADER)
    assert verdict(b"", road) == Verdict(Drop.BAD_VNET_HEADER)
    assert verdict(bytes(size), road) == Verdict(Drop.RUNT)


def test_a_super_frame_has_no_limit() -> None:
    assert verdict(read(GSO, frame(65535)), OPEN) == Verdict(None, 1)
    assert verdict(read(GSO, frame(65535)), OPEN._replace(limit=86)) == Verdict(None, 1)


@pytest.mark.parametrize("gate", Drop)
def test_a_closed_gate_comes_first(gate: Drop) -> None:
    """Whatever else is wrong with a frame, and even where it is none."""
    for data in (read(VnetHdr(), frame(60)), read(VnetHdr(gso_type=2), frame(60)), read(VnetHdr(), frame(9999)), b""):
        assert verdict(data, OPEN._replace(gate=gate)) == Verdict(gate)


@given(st.integers(0, 255), st.booleans())
def test_trust_speaks_for_silence_alone(flags: int, trust: bool) -> None:
    """NEEDS_CSUM is never touched, or a forwarded packet would leave the machine with a bad checksum."""
    data = read(VnetHdr(flags=flags), frame(60))
    expected = 2 if trust and flags == 0 else flags
    assert verdict(data, OPEN._replace(trust=trust)) == Verdict(None, expected)


def test_the_names_of_drops_are_a_promise() -> None:
    engine = "no_peer peer_down no_carrier oversize runt bad_vnet_header write_error stale"
    assert [drop.label for drop in Drop] == engine.split()
    assert [int(drop) for drop in Drop] == list(range(DROPS))
    kernel = "kernel_oversize kernel_no_carrier kernel_queue_full kernel_unknown"
    assert [str(drop) for drop in KernelDrop] == kernel.split()
