"""The state record: every version is read by every other as far as can be, and no bytes whatever stop the daemon."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vethd.model.drops import DROPS, Drop
from vethd.model.kernel_drops import KernelDrops
from vethd.model.record import (
    VERSION,
    EndRecord,
    EngineRecord,
    PairRecord,
    Record,
    decode,
    encode,
    encode_pair,
    framed,
    newest,
)
from vethd.model.spec import LinkSpec, PairSpec

DATA = Path(__file__).parents[1] / "data"
HEAD = 16
ENGINE = EngineRecord(name="native", workers=2, spin_us=20, gro=False)


def end(*fds: str) -> EndRecord:
    return EndRecord(fds=list(fds), drops=[0] * DROPS)


def pair(number: int, **fields: Any) -> PairRecord:
    ends = (end(f"t{2 * number}"), end(f"t{2 * number + 1}"))
    made = PairRecord(id=f"p{number}", spec=PairSpec(name=f"va{number}"), ends=ends)
    return msgspec.structs.replace(made, **fields)


def written(*pairs: PairRecord, seq: int = 1) -> bytes:
    return encode(seq, 9, 99, [encode_pair(it) for it in pairs], ENGINE)


def altered(data: bytes, **fields: Any) -> bytes:
    """Return the record with other fields, as another version might have written it."""
    return framed(json.dumps(json.loads(data[HEAD:]) | fields).encode())


def test_what_is_written_is_read() -> None:
    record = decode(written(pair(1), pair(2, source="saved")))
    assert record == Record(
        version=VERSION, seq=1, last_id=9, last_fd=99, pairs=[pair(1), pair(2, source="saved")], engine=ENGINE
    )


def test_version_1_is_read() -> None:
    """As the first release wrote it, byte for byte."""
    record = decode((DATA / "record-v1.bin").read_bytes())
    assert (record.version, record.seq, record.last_id, record.last_fd) == (1, 41, 9, 16)
    assert (record.engine, record.untold) == (None, [])
    first, second = record.pairs
    assert (first.id, first.source) == ("p1", "config")
    far = LinkSpec(name="vb", netns="blue", up=True)
    assert first.spec == PairSpec(name="va", netns="red", mtu=9000, up=True, rx_checksum="trust", gro=False, peer=far)
    near = first.ends[0]
    assert (near.fds, near.alias, near.altname, near.own_alias) == (
        ["t1"],
        "peer vb ifindex 2 netns blue",
        "va@vb",
        False,
    )
    assert (near.drops[Drop.PEER_DOWN], near.dropped_bytes, near.write_errors, near.uso) == (3, 640, {12: 2}, True)
    assert near.kernel_drops == KernelDrops(oversize=4, queue_full=1)
    assert first.ends[1].own_alias
    assert [it.fds for it in second.ends] == [["t13", "t14"], ["t15", "t16"]]


def test_a_newer_one_is_told_and_read() -> None:
    record = decode(altered(written(pair(1)), version=VERSION + 1, invention={"a": 1}))
    assert record.pairs == [pair(1)]
    assert len(record.untold) == 1
    assert f"version {VERSION + 1}, this vethd reads up to {VERSION}" in record.untold[0]


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("spec", {"name": "va1", "invention": 1}, {"spec": None}),
        ("source", "dream", {"source": "runtime"}),
        ("owner", -1, {"owner": 0}),
        ("invention", [1, 2], {}),
    ],
)
def test_of_an_odd_pair_what_can_be_read_is(field: str, value: Any, kept: dict[str, Any]) -> None:
    one = json.loads(bytes(encode_pair(pair(1, source="saved"))))
    record = decode(altered(written(pair(2)), pairs=[one | {field: value}, json.loads(bytes(encode_pair(pair(2))))]))
    assert record.pairs == [pair(1, **{"source": "saved"} | kept), pair(2)]
    assert bool(record.untold) == bool(kept)
    assert all("p1" in words for words in record.untold)


def test_an_end_of_which_the_core_alone_can_be_read() -> None:
    one = json.loads(bytes(encode_pair(pair(1))))
    one["ends"][0] = {"fds": ["t2"], "uso": True, "drops": "many"}
    (read,) = decode(altered(written(), pairs=[one])).pairs
    assert read == pair(1, ends=(EndRecord(fds=["t2"], drops=[0] * DROPS, uso=True), end("t3")))


@pytest.mark.parametrize("drops", [[], [1, 2], [0] * DROPS + [5, 6]])
def test_reasons_to_drop_that_were_added_since_or_later(drops: list[int]) -> None:
    one = json.loads(bytes(encode_pair(pair(1))))
    one["ends"][0]["drops"] = drops
    record = decode(altered(written(), pairs=[one]))
    assert record.pairs[0].ends[0].drops == (drops + [0] * DROPS)[:DROPS]
    assert bool(record.untold) == (len(drops) > DROPS)


@pytest.mark.parametrize(
    "bad", [1, {}, {"id": "p1"}, {"id": "p1", "ends": []}, {"id": "p1", "ends": [{"fds": []}, {"fds": ["t1"]}]}]
)
def test_a_pair_that_is_none_costs_no_other(bad: Any) -> None:
    record = decode(altered(written(), pairs=[bad, json.loads(bytes(encode_pair(pair(2))))]))
    assert record.pairs == [pair(2)]
    assert record.untold


def test_two_pairs_of_one_id() -> None:
    record = decode(written(pair(1), pair(1)))
    assert (record.pairs, record.untold) == ([pair(1)], ["pair p1 appears twice"])


def test_numbers_given_out_are_not_given_again() -> None:
    record = decode(altered(written(pair(40)), last_id=3, last_fd=3))
    assert (record.last_id, record.last_fd) == (40, 81)


def test_an_engine_that_makes_no_sense() -> None:
    for engine in ({"name": "native", "workers": 1 << 20}, {"name": 5}, "native", {"name": "native", "spin_us": -1}):
        record = decode(altered(written(pair(1)), engine=engine))
        assert (record.engine, record.pairs) == (None, [pair(1)])
        assert record.untold


@pytest.mark.parametrize("version", [0, -1, "2", None, 1.5])
def test_a_version_that_is_none(version: Any) -> None:
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(altered(written(pair(1)), version=version))


def test_the_newest_readable_copy_is_taken() -> None:
    old, new = written(pair(1), seq=1), written(pair(2), seq=2)
    for copies, expected in (
        ((old, new), pair(2)),
        ((new, old), pair(2)),
        ((old, new[:-1]), pair(1)),
        ((new + b"longer before", old), pair(2)),
        ((old, b""), pair(1)),
    ):
        record, _ = newest(copies)
        assert record is not None
        assert record.pairs == [expected]
    assert newest((b"", new[:HEAD])) == (None, ["it is truncated", "it is damaged"])


def test_a_write_that_was_cut_short_anywhere() -> None:
    """The older copy is written over from its start: until all is there, the other one counts."""
    old, new = written(pair(1), seq=1), written(pair(2), seq=3)
    for cut in range(len(new)):
        half = new[:cut] + old[cut:]
        record, _ = newest((half, written(pair(3), seq=2)))
        assert record is not None
        assert record.pairs == [pair(2 if half == new else 3)], cut


MUTANTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a record in which a few values, anywhere, are others, are gone, or are there twice."""
    body = json.loads(written(pair(1), pair(2))[HEAD:])
    for _ in range(draw(st.integers(1, 4))):
        at: Any = body
        while isinstance(at, (dict, list)) and at:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw(st.sampled_from(keys))
            if not isinstance(at[key], (dict, list)) or draw(st.booleans()):
                match draw(st.sampled_from(("other", "gone", "copy"))):
                    case "gone":
                        del at[key]
                    case "copy" if isinstance(at, list):
                        at.append(at[key])
                    case _:
                        at[key] = draw(MUTANTS)
                break
            at = at[key]
    return framed(json.dumps(body).encode())


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_a_mutated_record_is_read_in_parts_or_refused(data: bytes) -> None:
    """What is read is whole: enough to begin with, and to be written again."""
    try:
        record = decode(data)
    except ValueError:
        return
    assert len({it.id for it in record.pairs}) == len(record.pairs)
    for it in record.pairs:
        assert all(one.fds and len(one.drops) == DROPS for one in it.ends)
    again = decode(encode(record.seq, record.last_id, record.last_fd, map(encode_pair, record.pairs), record.engine))
    assert again.pairs == record.pairs


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(data: bytes, framed_well: bool) -> None:
    try:
        decode(framed(data) if framed_well else data)
    except ValueError:
        return
    raise AssertionError("noise was taken for a record")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_bit_that_flips(data: st.DataObject) -> None:
    whole = bytearray(written(pair(1)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    assert zlib.crc32(whole[HEAD:]) != zlib.crc32(written(pair(1))[HEAD:]) or at < HEAD
    with pytest.raises(ValueError, match="damaged"):
        decode(bytes(whole))
