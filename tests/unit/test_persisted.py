"""The file of persistent devices: it reads as it was written, or not at all."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vethd.model.persisted import Spot, Whereabouts, read_back, write_down
from vethd.model.record import EndRecord, PairRecord, encode, encode_pair, framed

PAIR = PairRecord(id="p1", ends=(EndRecord(fds=["t1"]), EndRecord(fds=["t2"])))
RECORD = encode(3, 1, 2, [encode_pair(PAIR)])
SPOT = Spot(name="va", netns="red", ifindex=7, address="02:00:00:00:00:01", vnet_hdr_len=24)
PLACES = Whereabouts(boot="b", spots={"t1": SPOT, "t2": SPOT})
DATA = write_down(RECORD, PLACES)


def test_reads_as_it_was_written() -> None:
    written, record, places = read_back(DATA)
    assert written == RECORD
    assert [pair.id for pair in record.pairs] == ["p1"]
    assert places == PLACES


def test_an_older_one_reads_and_a_newer_one_too() -> None:
    body = msgspec.json.encode({"boot": "b", "spots": {"t1": msgspec.structs.asdict(SPOT) | {"more": 1}}, "more": 1})
    assert read_back(RECORD + framed(body))[2].spots == {"t1": SPOT}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"boot": 1, "spots": {}}', b'{"boot": "", "spots": {"t1": {}}}', b"\xff", b"[" * 100_000]
)
def test_odd_places_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_back(RECORD + framed(body))


@given(st.integers(0, len(DATA) - 1))
def test_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="it is"):
        read_back(DATA[:length])


@given(st.integers(0, len(DATA) * 8 - 1))
def test_a_flipped_bit_is_refused(bit: int) -> None:
    data = bytearray(DATA)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="it is"):
        read_back(bytes(data))
