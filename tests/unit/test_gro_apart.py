"""Coalescing: what does not join what is open, but may open a super-frame of its own."""

from __future__ import annotations

import pytest

from tests.lib.coalescing import KINDS, T4, T6, U4, U6, counts
from tests.lib.segments import ACK, PSH, TCP, Segment, cut, finished
from vethd.model.gro import FLOWS, SUPER_MAX, UDP_SEGMENTS_MAX, coalesce


@pytest.fixture(params=list(KINDS))
def first(request: pytest.FixtureRequest) -> Segment:
    return KINDS[request.param]


def second_of(first: Segment, **changes: object) -> list[int]:
    """Coalesce first, its next with changes, and one more like that."""
    second = first.after().but(**changes)
    return counts(first, second, second.after())


def test_size_grows(first: Segment) -> None:
    assert second_of(first, payload=first.payload + b"x") == [1, 2]


@pytest.mark.parametrize("change", [{"ttl": 63}, {"tos": 1}, {"src_mac": "02:00:00:00:aa:09"}])
def test_header_differs(first: Segment, change: dict[str, object]) -> None:
    """Ttl and hop limit, tos and traffic class, a MAC."""
    assert second_of(first, **change) == [1, 2]
    assert second_of(first, dst_mac="02:00:00:00:aa:07") == [1, 2]


def test_flow_label_differs() -> None:
    assert second_of(U6, flow_label=1) == [1, 2]
    assert second_of(T6, flow_label=0xFFFFF) == [1, 2]


@pytest.mark.parametrize("change", [{"sport": 1001}, {"dport": 2001}])
def test_another_flow_neither_joins_nor_closes(first: Segment, change: dict[str, object]) -> None:
    assert counts(first, first.but(**change), first.after()) == [2, 1]


def test_address_is_of_the_flow() -> None:
    for first, other in ((U4, "10.0.0.3"), (T4, "10.0.0.3"), (U6, "fd00::3"), (T6, "fd00::3")):
        assert counts(first, first.but(src=other), first.after()) == [2, 1]
        assert counts(first, first.but(dst=other), first.after()) == [2, 1]
    assert counts(U4, U4.but(proto=TCP), U4.after()) == [2, 1]


@pytest.mark.parametrize("fragment", [0x0000, 0x8000, 0xC000])
def test_fragment_bits_differ(fragment: int) -> None:
    """DF and the reserved bit; what is the same in all is no matter."""
    for first in (U4, T4):
        assert second_of(first, fragment=fragment) == [1, 2]
        assert counts(*first.but(fragment=fragment).run(3)) == [3]


def test_ids_that_do_not_count_up() -> None:
    """A gap, the same again (0 is what Linux gives to an unconnected socket that forbids fragments), backwards."""
    for first in (U4.but(ip_id=5), T4.but(ip_id=5)):
        for ip_id in (5, 7, 4, 0x605):
            assert second_of(first, ip_id=ip_id) == [1, 2]
        assert counts(first, first.after(), first.after().but(seq=200)) == [2, 1]
    assert counts(U4, U4, U4) == [1, 1, 1]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
@pytest.mark.parametrize("change", [{"ack": 78}, {"window": 499}, {"reserved": 1}, {"options": b"\x01" * 12}])
def test_tcp_header_differs(kind: str, change: dict[str, object]) -> None:
    assert second_of(KINDS[kind], **change) == [1, 2]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
@pytest.mark.parametrize("offset", [-1, 1, 100, 1 << 16, -100])
def test_sequence_number_is_another(kind: str, offset: int) -> None:
    first = KINDS[kind].but(seq=100_000)
    assert counts(first, first.after(seq=100_100 + offset)) == [1, 1]
    assert counts(first, first.after(), first.after().after(seq=100_200 + offset)) == [2, 1]


def test_pseudo_header_sum_differs(first: Segment) -> None:
    assert second_of(first, check_error=1) == [1, 2]
    assert counts(first, first.after(b"x", check_error=1)) == [1, 1]
    wrong = first.but(check_error=77)  # the same error in all comes out as it went in
    assert counts(wrong, wrong.after(), wrong.after().after(b"x")) == [3]


@pytest.mark.parametrize("at", [10, 23])
def test_vnet_tail_differs(first: Segment, at: int) -> None:
    tail = bytes(at - 10) + b"\1" + bytes(23 - at)
    one, other = first.data(bytes(14)), first.after().data(tail)
    last = first.after().after().data(tail)
    out = coalesce([one, other, last], 24)
    assert [frames for _, frames in out] == [1, 2]
    assert out[1].data[10:24] == tail
    assert cut(out[1].data, 24) == [finished(other, 24), finished(last, 24)]


def test_super_frame_of_65535_and_not_one_more() -> None:
    for first in (U4.but(payload=bytes(1400)), T6.but(payload=bytes(1400))):
        head = len(first.frame()) - 1400
        full = first.run((65535 - head) // 1400)
        room = 65535 - head - 1400 * len(full)
        last = first.but(ip_id=len(full), seq=1400 * len(full))
        assert counts(*full, last.but(payload=bytes(room))) == [len(full) + 1]
        assert counts(*full, last.but(payload=bytes(room + 1))) == [len(full), 1]
    assert SUPER_MAX == 65535


def test_64_datagrams_and_not_one_more() -> None:
    assert counts(*U4.run(130)) == [64, 64, 2]
    assert counts(*U6.run(65)) == [64, 1]
    assert counts(*T4.run(130)) == [130]
    assert UDP_SEGMENTS_MAX == 64


def test_the_flow_opened_first_makes_room(first: Segment) -> None:
    flows = [first.but(sport=n) for n in range(FLOWS + 1)]
    nexts = [flow.after() for flow in flows]
    assert counts(*flows[:FLOWS], *nexts[:FLOWS]) == [2] * FLOWS
    # the 17th closes flow 0, whose next closes flow 1
    assert counts(*flows, nexts[FLOWS], nexts[1]) == [1, 2, *[1] * (FLOWS - 2), 2]
    assert counts(*flows, nexts[0], nexts[2], nexts[1]) == [1, 1, 2, *[1] * (FLOWS - 2), 1, 1]


def test_a_flow_that_opens_anew_is_the_youngest(first: Segment) -> None:
    """It closes its own entry first, and so nobody else's."""
    flows = [first.but(sport=n) for n in range(FLOWS + 1)]
    anew = flows[0].but(payload=first.payload + b"longer")
    out = counts(*flows[:FLOWS], anew, flows[FLOWS], anew.after(), flows[1].after())
    assert out == [1, 1, *[1] * (FLOWS - 2), 2, 1, 1]


def test_a_push_that_opens_nothing_closes_nobody() -> None:
    flows = [T4.but(sport=n) for n in range(FLOWS)]
    pushed = T4.but(sport=FLOWS, flags=ACK | PSH)
    assert counts(*flows, pushed, *[flow.after() for flow in flows]) == [*[2] * FLOWS, 1]
