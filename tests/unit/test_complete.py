"""Frames as they leave by a device without offloads: against the tests' own segmentation, and with what can be odd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lib.coalescing import KINDS, T4, U4
from tests.lib.frames import Vnet, sized
from tests.lib.segments import ACK, PSH, cut, finished
from vethd.model.complete import checksum, completed, segments
from vethd.model.gro import coalesce

HEADER = 10


def parts(data: bytes) -> tuple[bytes, bytes]:
    return data[:HEADER], data[HEADER:]


@given(st.binary(max_size=200))
def test_checksum(data: bytes) -> None:
    """As RFC 1071 has it, word by word."""
    padded, total = data + b"\0" * (len(data) % 2), 0
    for at in range(0, len(padded), 2):
        total += int.from_bytes(padded[at : at + 2])
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(data) == total


@pytest.mark.parametrize("kind", KINDS)
@given(length=st.integers(1, 300), number=st.integers(0, 255))
def test_a_frame_is_completed(kind: str, length: int, number: int) -> None:
    data = KINDS[kind].but(payload=bytes([number]) * length).data()
    assert completed(*parts(data)) == finished(data)
    assert segments(*parts(data)) == [completed(*parts(data))]


@pytest.mark.parametrize("kind", KINDS)
@given(count=st.integers(2, 40))
def test_a_super_frame_is_cut(kind: str, count: int) -> None:
    run = KINDS[kind].run(count)
    ((data, frames), *rest) = coalesce(run, HEADER)
    assert (frames, rest) == (count, [])
    assert segments(*parts(data)) == [finished(one) for one in run]
    assert len(cut(data)) == count


def test_flags_of_the_first_and_the_last() -> None:
    """CWR stays on the first segment; PSH and FIN on the last."""
    head = T4.but(flags=ACK | PSH | 0x80 | 0x01, payload=bytes(250)).data()
    data = Vnet(1, 1, 66, 100, 34, 16).pack() + head[HEADER:]
    flags = [one[34 + 13] for one in segments(*parts(data))]
    assert flags == [ACK | 0x80, ACK, ACK | PSH | 0x01]


@pytest.mark.parametrize(
    "data",
    [
        Vnet().pack() + sized(60),
        Vnet(1, 0, 0, 0, 100, 16).pack() + sized(60),  # a checksum behind the frame
        Vnet(1, 1, 66, 0, 34, 16).pack() + T4.frame(),  # no size
        Vnet(1, 1, 66, 100, 0, 16).pack() + T4.frame(),  # where the headers cannot be
        Vnet(1, 3, 42, 100, 34, 6).pack() + U4.frame(),  # UDP fragments
        Vnet(0, 1, 66, 100, 34, 16).pack() + T4.frame(),
        Vnet(1, 0x21, 66, 100, 34, 16).pack() + T4.frame(),  # in a tunnel
        Vnet(1, 1, 66, 100, 34, 16).pack() + T4.frame()[:40],
    ],
)
def test_what_cannot_be_cut_stays_whole(data: bytes) -> None:
    assert len(segments(*parts(data))) == 1


@given(st.binary(min_size=10, max_size=10), st.binary(max_size=120))
def test_anything(vnet: bytes, frame: bytes) -> None:
    assert completed(vnet, frame) is not None
    assert all(segments(vnet, frame)) or not frame
