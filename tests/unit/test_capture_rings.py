"""A capture's rings: what every engine writes into them, and a reader that cannot be trusted."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib.coalescing import T4
from tests.lib.sockwire import Bench, bench, frame
from vethd.datapath.engine import TapSpec
from vethd.model.capture import (
    DROPPED,
    FORWARDED,
    HEADER,
    RECEIVED,
    RECORD,
    ROOM_MIN,
    SENT,
    TAIL_AT,
    Counts,
    Reader,
    Record,
    padded,
)
from vethd.model.drops import Drop
from vethd.model.verdict import forward_limit

ALL = SENT | DROPPED | RECEIVED
LIMIT = forward_limit(1500)
ETHERTYPE = 12
ONLY_FILL_7 = b"".join(
    struct.pack("=HBBI", *one) for one in [(0x30, 0, 0, 14), (0x15, 0, 1, 7), (6, 0, 0, 1), (6, 0, 0, 0)]
)


class Captured:
    """A bench whose side 0 is captured."""

    def __init__(self, it: Bench, spec: TapSpec, room: int) -> None:
        self.bench = it
        self.spec = spec
        self.memory = mmap.mmap(-1, HEADER + room)
        self.ring = memoryview(self.memory)
        self.reader = Reader(self.ring)
        self.stop = it.wire.capture(0, [self.ring], spec)
        self.sent = 0

    def send(self, *frames: bytes) -> None:
        """Send frames from side 0, one wake-up each, and wait until they are through."""
        for data in frames:
            self.bench.devices[0][0].send(data)
            self.sent += 1
            self.bench.settle(self.sent)

    def woken(self) -> bool:
        try:
            return os.eventfd_read(self.spec.event_fd) == 1
        except BlockingIOError:
            return False


@contextmanager
def captured(
    engine: str, *, kinds: int = ALL, snaplen: int = 1 << 18, program: bytes = b"", room: int = ROOM_MIN
) -> Iterator[Captured]:
    event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    with bench(engine=engine) as it:
        it.open()
        found = Captured(it, TapSpec(program, snaplen, kinds, event_fd), room)
        yield found
        found.stop()
        found.stop()
    found.ring.release()
    found.memory.close()  # which fails while anybody holds on to it
    os.close(event_fd)


def shape(record: Record) -> tuple[int, int, int, int, bytes]:
    return record.kind, record.reason, record.length, record.error, record.data


def test_what_is_written(engine: str) -> None:
    with captured(engine) as it:
        good, long, runt, none = frame(100, 1), frame(1600, 2), frame(13, 3), b"\x00" * 5
        it.send(good, long, runt, none)
        records = it.reader.take()
        assert [shape(one) for one in records] == [
            (SENT, FORWARDED, 100, 0, good[10:]),
            (RECEIVED, FORWARDED, 100, 0, good[10:]),
            (DROPPED, Drop.OVERSIZE, 1600, 0, long[10:]),
            (DROPPED, Drop.RUNT, 13, 0, runt[10:]),
            (DROPPED, Drop.BAD_VNET_HEADER, 0, 0, b""),
        ]
        assert [one.time_ns for one in records] == sorted(one.time_ns for one in records)
        assert records[0].vnet[:10] == good[:10]
        assert {one.limit for one in records} == {LIMIT}
        assert it.reader.counts() == Counts(5, 5, 0)
        assert it.reader.take() == []


@pytest.mark.parametrize("kinds", [SENT, DROPPED, RECEIVED, SENT | DROPPED])
def test_kinds(engine: str, kinds: int) -> None:
    with captured(engine, kinds=kinds) as it:
        it.send(frame(100), frame(1600))
        assert [one.kind for one in it.reader.take()] == [kind for kind in (SENT, RECEIVED, DROPPED) if kinds & kind]


def test_a_failed_write_is_a_drop(engine: str) -> None:
    with captured(engine, kinds=SENT | DROPPED) as it:
        it.bench.devices[1][0].close()
        it.send(frame(100))
        sent, dropped = it.reader.take()
        assert (sent.kind, dropped.kind) == (SENT, DROPPED)
        assert dropped.reason == Drop.WRITE_ERROR
        assert dropped.error
        assert dropped.data == sent.data


def test_snaplen_and_filter(engine: str) -> None:
    with captured(engine, kinds=SENT, snaplen=20, program=ONLY_FILL_7) as it:
        it.send(frame(100, 1), frame(100, 7), frame(100, 1))
        (record,) = it.reader.take()
        assert (record.number, record.length, record.data) == (2, 100, frame(100, 7)[10:30])
        assert it.reader.counts() == Counts(3, 1, 0)


def test_a_closed_gate(engine: str) -> None:
    with captured(engine, kinds=ALL) as it:
        it.bench.wire.set_gate(0, Drop.PEER_DOWN)
        it.send(frame(100))
        assert [(one.kind, one.reason) for one in it.reader.take()] == [(DROPPED, Drop.PEER_DOWN)]


def test_two_captures_of_one_wire(engine: str) -> None:
    with captured(engine, kinds=SENT) as it:
        memory = mmap.mmap(-1, HEADER + ROOM_MIN)
        with memoryview(memory) as ring:
            reader = Reader(ring)
            stop = it.bench.wire.capture(0, [ring], it.spec)
            it.send(frame(100, 1))
            stop()
            it.send(frame(100, 2))
            assert len(reader.take()) == 1
        assert len(it.reader.take()) == 2
        memory.close()


def test_a_closed_wire_copies_no_more(engine: str) -> None:
    with captured(engine) as it:
        it.send(frame(100))
        it.bench.wire.close()
        it.stop()
        assert len(it.reader.take()) == 2


def test_what_does_not_fit_is_counted(engine: str) -> None:
    """The frames in the ring stay whole; the next one that fits tells how many were lost before it."""
    with captured(engine, kinds=SENT) as it:
        size = RECORD.size + padded(1000)
        fits, more = ROOM_MIN // size, 10
        it.send(*(frame(1000, n % 256) for n in range(fits + more)))
        assert it.reader.counts() == Counts(fits + more, fits + more, more)
        kept = it.reader.take(most=1 << 20)
        assert [one.data for one in kept] == [frame(1000, n % 256)[10:] for n in range(fits)]
        it.send(frame(1000, 9))
        (record,) = it.reader.take()
        assert (record.lost, record.data) == (more, frame(1000, 9)[10:])


@pytest.mark.parametrize("tail", [0, 8, 1 << 63, (1 << 64) - 8, 12_345_678])
def test_a_hostile_tail(engine: str, tail: int) -> None:
    """A position that the reader made up makes the ring full, or costs the reader its records, and nothing else."""
    with captured(engine, kinds=SENT) as it:
        it.send(*(frame(1000) for _ in range(300)))
        struct.pack_into("=Q", it.ring, TAIL_AT, tail)
        it.send(*(frame(1000) for _ in range(300)))
        assert it.bench.counters(0).forwarded == 600
        assert it.reader.counts().seen == 600


def test_a_reader_that_sleeps_is_woken_once(engine: str) -> None:
    with captured(engine, kinds=SENT) as it:
        it.send(frame(100))
        assert not it.woken()
        it.reader.sleep(sleeping=True)
        it.send(frame(100), frame(100))
        assert it.woken()
        assert not it.woken()
        assert len(it.reader.take()) == 3


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(14, 1514), max_size=400), takes=st.lists(st.booleans(), max_size=400))
def test_the_ring_wraps(engine: str, lengths: list[int], takes: list[bool]) -> None:
    """Whatever the sizes, and whenever the reader reads, the records are the frames in order, less those told lost."""
    with captured(engine, kinds=SENT) as it:
        sent, got = [], []
        for number, length in enumerate(lengths):
            sent.append(frame(length, number % 256))
            it.send(sent[-1])
            if number < len(takes) and takes[number]:
                got += it.reader.take()
        got += it.reader.take(most=1 << 20)
        assert it.reader.empty()
        assert len(got) + it.reader.counts().lost == len(sent)
        assert [one.data for one in got] == [sent[one.number - 1][10:] for one in got]


@pytest.mark.parametrize("snaplen", [60, 1 << 18])
def test_coalesced_frames_are_captured_as_they_were_read(engine: str, snaplen: int) -> None:
    """Each frame once as it was read; what is written names the first frame of each super-frame."""
    segments = [T4.but(seq=1 + n * 100, ip_id=n, payload=bytes([n]) * 100).data() for n in range(20)]
    others = [frame(100, n) for n in range(3)]
    batch = [*segments[:10], others[0], *segments[10:], *others[1:]]
    with captured(engine, snaplen=snaplen, room=1 << 20) as it:
        it.bench.wire.set_gro(gro=True)
        for data in batch:
            it.bench.devices[0][0].send(data)
        it.bench.settle(len(batch))
        records = it.reader.take()
        sent = [one for one in records if one.kind == SENT]
        written = [one for one in records if one.kind == RECEIVED]
        assert [one.data for one in sent] == [data[10:][:snaplen] for data in batch]
        assert [one.number for one in sent] == list(range(1, len(batch) + 1))
        out = it.bench.received(1)
        assert [one.data for one in written] == [data[10:][:snaplen] for data in out]
        assert sum(one.frames for one in written) == len(batch)
        assert {one.number for one in written} <= {one.number for one in sent}
        for one in written:
            assert sent[one.number - 1].data[:30][26:] == one.data[:30][26:]  # the same source
