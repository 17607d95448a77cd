"""Every engine coalesces as the model does: byte for byte, frame for frame in its counters, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib.coalesce_bench import DIVIDED_MAX, ONE_LOOK, T6, U4, coalesced, explained, forwarded, push, start
from tests.lib.frames import Vnet
from tests.lib.segments import ACK, PSH
from tests.lib.sockwire import Bench, bench, frame
from tests.lib.traffic import batches, session
from vethd.datapath import aio_direction
from vethd.datapath.aio_direction import BATCH
from vethd.datapath.engine import Counters
from vethd.model.drops import DROPS
from vethd.model.gro import FLOWS, coalesce
from vethd.model.verdict import Road, forward_limit, verdict


@pytest.fixture(scope="module")
def shared(engine: str) -> Iterator[Bench]:
    """Yield sockets and an engine that many examples use, each with a wire of its own."""
    with bench(engine=engine) as it:
        yield it


def test_explained_can_fail() -> None:
    run = U4.run(4)
    whole = [data for data, _ in coalesce(run, 10)]
    halves = [data for half in (run[:2], run[2:]) for data, _ in coalesce(half, 10)]
    assert explained(whole, run, 10)
    assert explained(halves, run, 10)
    assert explained(run, run, 10)
    assert explained([], [], 10)
    for wrong in ([], whole[::-1] + run, halves[:1], halves[::-1], [run[1], run[0], *run[2:]], whole[:-1]):
        assert not explained(wrong, run, 10)


@pytest.mark.parametrize("vnet_hdr_len", [10, 24])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_engine_coalesces_as_the_model(shared: Bench, engine: str, vnet_hdr_len: int, data: st.DataObject) -> None:
    trust, udp = data.draw(st.booleans()), data.draw(st.sampled_from((True, True, False)))
    start(shared, vnet_hdr_len, udp=udp, trust=trust)
    road = Road(None, forward_limit(1500), trust, vnet_hdr_len)
    for side in data.draw(st.sampled_from(((0,), (0, 1)))):
        batch = data.draw(batches(vnet_hdr_len, BATCH if ONE_LOOK[engine] else DIVIDED_MAX))
        out = push(shared, batch, side)
        passed = forwarded(batch, road)
        if ONE_LOOK[engine]:
            assert out == [one for one, _ in coalesce(passed, vnet_hdr_len, udp=udp)]
        else:
            assert explained(out, passed, vnet_hdr_len, udp=udp)
        counters = shared.counters(side)
        drops = [0] * DROPS
        for drop in [verdict(one, road).drop for one in batch]:
            if drop is not None:
                drops[drop] += 1
        size = sum(map(len, batch)) - vnet_hdr_len * len(batch)
        passed_size = sum(map(len, passed)) - vnet_hdr_len * len(passed)
        assert counters == Counters(len(batch), size, len(passed), passed_size, 0, tuple(drops), {})


@pytest.mark.parametrize("seed", range(30))
def test_flows_that_go_on_for_many_looks(shared: Bench, engine: str, seed: int) -> None:
    """What an engine remembers of flows never decides what becomes of them; limits change in between."""
    random = Random(seed)
    vnet_hdr_len, udp = random.choice((10, 24)), random.random() < 0.7
    start(shared, vnet_hdr_len, udp=udp)
    road = Road(None, forward_limit(1500), vnet_hdr_len=vnet_hdr_len)
    for look in session(random, 40, vnet_hdr_len):
        batch = look if ONE_LOOK[engine] else look[:DIVIDED_MAX]
        if random.random() < 0.1:
            road = road._replace(limit=random.choice((forward_limit(1500), 142, 150)))
            shared.wire.set_limit(0, road.limit)
        out = push(shared, batch)
        passed = forwarded(batch, road)
        if ONE_LOOK[engine]:
            assert out == [one for one, _ in coalesce(passed, vnet_hdr_len, udp=udp)]
        else:
            assert explained(out, passed, vnet_hdr_len, udp=udp)


def test_off_until_set(shared: Bench) -> None:
    start(shared, gro=False)
    assert push(shared, U4.run(10)) == U4.run(10)


def test_set_live(shared: Bench, engine: str) -> None:
    """On for what is read from then on, in both directions, and off again."""
    start(shared, gro=False)
    for gro in (True, False, True):
        shared.wire.set_gro(gro=gro)
        for side in (0, 1):
            out = push(shared, U4.run(10), side)
            assert explained(out, U4.run(10), 10) if gro else out == U4.run(10)
            assert len(out) == 1 or not (gro and ONE_LOOK[engine])


def test_set_live_for_udp_or_not(shared: Bench, engine: str) -> None:
    """A kernel that takes no super-frame of UDP gets none; it takes those of TCP."""
    start(shared)
    for udp in (False, True, False):
        shared.wire.set_gro(gro=True, udp=udp)
        datagrams, segments = push(shared, U4.run(10)), push(shared, T6.run(10))
        assert explained(datagrams, U4.run(10), 10) if udp else datagrams == U4.run(10)
        assert explained(segments, T6.run(10), 10)
        if ONE_LOOK[engine]:
            assert (len(datagrams), len(segments)) == (1 if udp else 10, 1)


def test_batches_do_not_wait_for_each_other(shared: Bench) -> None:
    """A frame that comes alone goes at once, and alone."""
    start(shared)
    for data in U4.run(5):
        assert push(shared, [data]) == [data]


def test_more_than_a_batch(shared: Bench, engine: str) -> None:
    start(shared)
    run = T6.run(3 * BATCH + 5)
    out = push(shared, run)
    if ONE_LOOK[engine]:
        looks = [run[at : at + BATCH] for at in range(0, len(run), BATCH)]
        assert out == [data for look in looks for data, _ in coalesce(look, 10)]
        assert len(out) == 4
    assert shared.counters(0).forwarded == len(run)
    assert shared.counters(0).forwarded_bytes == sum(map(len, run)) - 10 * len(run)


def test_super_frame_of_65535_bytes_is_whole(shared: Bench, engine: str) -> None:
    """The longest that there is, header and all."""
    start(shared)
    full = U4.but(payload=bytes(1400)).run(46)
    last = U4.but(payload=bytes(65535 - 42 - 46 * 1400), ip_id=46).data()
    out = push(shared, [*full, last])
    if ONE_LOOK[engine]:
        assert [len(data) for data in out] == [10 + 65535]
    assert explained(out, [*full, last], 10)


@pytest.mark.parametrize("flows", [1, 2, 3])
def test_long_frames_in_turn_are_no_longer_than_65535_bytes(shared: Bench, engine: str, flows: int) -> None:
    start(shared)
    shared.wire.set_limit(0, forward_limit(9000))
    runs = [T6.but(payload=bytes(8900), sport=n).run(18 // flows) for n in range(flows)]
    batch = [data for row in zip(*runs, strict=True) for data in row]
    out = push(shared, batch)
    assert max(map(len, out)) <= 10 + 65535
    assert explained(out, batch, 10)
    assert out == coalesced(batch) or not ONE_LOOK[engine]


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("vnet_hdr_len", [10, 24])
def test_two_frames_of_half_a_super_frame(shared: Bench, engine: str, vnet_hdr_len: int, more: int) -> None:
    """With the longest headers: 65,535 bytes are one, one more are two."""
    start(shared, vnet_hdr_len)
    shared.wire.set_limit(0, forward_limit(65521))
    first = T6.but(payload=bytes(32711), options=b"\1" * 40)
    batch = [one.data(bytes(vnet_hdr_len - 10)) for one in (first, first.after(bytes(32710 + more)))]
    out = push(shared, batch)
    assert explained(out, batch, vnet_hdr_len)
    assert [len(data) - vnet_hdr_len for data in out] == ([65535] if not more else [32825, 32825]) or not ONE_LOOK[
        engine
    ]


def test_header_of_an_older_frame_is_not_looked_at(shared: Bench, engine: str) -> None:
    """Buffers keep what they held: a short frame in one that held the flow's next header is itself."""
    start(shared)
    run = T6.but(flags=ACK).run(8)
    push(shared, run)
    for length in (10, 23, 24, 40, 63, 64, 83, 84):
        batch = [run[0], run[1][:length], run[2]]
        out = push(shared, batch)
        passed = forwarded(batch, Road(None, forward_limit(1500)))
        assert out == [one for one, _ in coalesce(passed, 10)] or not ONE_LOOK[engine]
        assert explained(out, passed, 10)


def test_dropped_frame_between_two_is_no_barrier(shared: Bench, engine: str) -> None:
    """Nobody sees it: what stands around it goes together."""
    start(shared)
    run = U4.run(3)
    out = push(shared, [run[0], frame(1600), run[1], frame(5), run[2]])
    assert explained(out, run, 10)
    assert len(out) == 1 or not ONE_LOOK[engine]
    assert shared.counters(0).forwarded == 3
    assert sum(shared.counters(0).drops) == 2


def test_dropped_frame_that_looks_like_a_later_segment_closes_nothing(shared: Bench, engine: str) -> None:
    """Its header is one of the flow's next, but it is longer than that says, and than the limit."""
    start(shared)
    shared.wire.set_limit(0, 142)
    run = U4.run(6)
    out = push(shared, [*run[:3], run[4] + b"x", *run[3:]])
    assert explained(out, run, 10)
    assert len(out) == 1 or not ONE_LOOK[engine]


def test_header_that_was_there_twice_may_be_next_when_ids_come_round(shared: Bench, engine: str) -> None:
    """The ids went once around, and the checksum with them; what is said of GSO, which there is none of, is another."""
    sources = [U4.but(src=f"10.0.{n >> 8}.{n & 255}", ip_id=5) for n in range(1 << 16)]
    segment = next(one for one in sources if one.frame()[24:26] == b"\xff\xfe")
    ids = [(5, 0), (5, 0), (0xFFFF, 0), (0, 9), (4, 9), (5, 0)]
    batch = [Vnet(1, 0, 0, said, 34, 6).pack() + segment.but(ip_id=ip_id).frame() for ip_id, said in ids]
    start(shared)
    out = push(shared, batch)
    assert [len(data) - 10 for data in coalesced(batch)] == [142, 142, 242, 242]
    assert out == coalesced(batch) or not ONE_LOOK[engine]


def test_known_flow_that_opens_anew_is_the_youngest(shared: Bench, engine: str) -> None:
    """As in the model, whatever is known from the look before: after a gap flow 0 is open behind all others."""
    start(shared)
    flows = [U4.but(sport=n).run(9) for n in range(FLOWS + 1)]
    for look in (
        [data for flow in flows for data in flow[:3]],
        [*[flow[3] for flow in flows[:FLOWS]], flows[0][6], flows[FLOWS][3], *[flow[4] for flow in flows], flows[0][7]],
    ):
        out = push(shared, look)
        assert out == coalesced(look) or not ONE_LOOK[engine]
        assert len(look) > DIVIDED_MAX or explained(out, look, 10)


def test_64_datagrams_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the asyncio engine, were its batches longer."""
    monkeypatch.setattr(aio_direction, "BATCH", 200)
    with bench() as it:
        start(it)
        runs = [U4.run(70), U4.but(sport=9).run(70)]
        batch = [data for row in zip(*runs, strict=True) for data in row]
        assert push(it, batch) == coalesced(batch)
        start(it)
        assert push(it, U4.run(140)) == coalesced(U4.run(140))


def test_oversize_is_judged_before_it_joins(shared: Bench) -> None:
    """Each segment has the receiver's MTU to keep, the super-frame has none."""
    start(shared)
    shared.wire.set_limit(0, 142)
    fits, too_long = U4.but(payload=bytes(100)), U4.but(payload=bytes(101))
    assert explained(push(shared, fits.run(9)), fits.run(9), 10)
    assert shared.counters(0).forwarded == 9
    assert push(shared, too_long.run(9)) == []
    assert shared.counters(0).forwarded == 9


def test_budget_of_bytes_ends_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the asyncio engine: seven frames of 152 bytes pass 1,000."""
    monkeypatch.setattr(aio_direction, "BATCH_BYTES", 1000)
    run = U4.run(14)
    with bench() as it:
        start(it)
        assert push(it, run) == [data for half in (run[:7], run[7:]) for data, _ in coalesce(half, 10)]


def test_push_ends_a_super_frame_everywhere(shared: Bench) -> None:
    start(shared)
    run, segment = [], T6
    for n in range(20):
        run.append(segment.but(flags=ACK | PSH * (n % 5 == 4)).data())
        segment = segment.after()
    assert explained(push(shared, run), run, 10)
