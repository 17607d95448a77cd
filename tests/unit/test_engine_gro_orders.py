"""Every engine coalesces as the model does, in every order of a few frames and where a field wraps around."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from tests.lib.coalesce_bench import ONE_LOOK, T6, U4, U6, coalesced, explained, forwarded, push, start
from tests.lib.frames import Vnet
from tests.lib.segments import ACK, PSH
from tests.lib.sockwire import Bench, bench
from vethd.model.verdict import Road, forward_limit


@pytest.fixture(scope="module")
def shared(engine: str) -> Iterator[Bench]:
    """Yield sockets and an engine that many examples use, each with a wire of its own."""
    with bench(engine=engine) as it:
        yield it


def u4(ip_id: int, size: int = 100, said: int = 0) -> bytes:
    """Return a datagram by its id; said is a size for GSO in a virtio_net_hdr that has none."""
    return Vnet(1, 0, 0, said, 34, 6).pack() + U4.but(ip_id=ip_id, payload=bytes(size)).frame()


def t6(place: int, size: int = 100, flags: int = ACK) -> bytes:
    """Return a segment by its place in a stream of full ones."""
    return T6.but(seq=place * 100, payload=bytes(size), flags=flags).data()


FEW = {
    "ids": [u4(5), u4(6), u4(7), u4(8)],
    "ids around": [u4(0xFFFE), u4(0xFFFF), u4(0), u4(1)],
    "sizes": [u4(5), u4(6), u4(6, 50), u4(7)],
    "greater sizes": [u4(5), u4(6), u4(6, 101), u4(7, 101)],
    "said of GSO": [u4(5), u4(6), u4(6, said=3), u4(7)],
    "stream": [t6(0), t6(1), t6(2), t6(3)],
    "stream with PSH": [t6(0), t6(1), t6(1, flags=ACK | PSH), t6(2)],
    "stream with a shorter one": [t6(0), t6(1), t6(1, 40), t6(2)],
    "no ids": [U6.data(), U6.but(payload=bytes(50)).data(), U6.but(ttl=3).data(), U6.but(sport=9).data()],
}


@pytest.mark.parametrize("kind", list(FEW))
def test_every_order_of_four(shared: Bench, engine: str, kind: str) -> None:
    """Five frames, each one of four: all 1,024 ways, in looks that follow each other."""
    start(shared)
    for order in product(range(4), repeat=5):
        batch = [FEW[kind][n] for n in order]
        out = push(shared, batch)
        assert out == coalesced(batch) if ONE_LOOK[engine] else explained(out, batch, 10), order


WRAPPING = {
    "id": U4.but(ip_id=0xFFFF - 9),
    "ip checksum": next(one for n in range(1 << 16) if (one := U4.but(ip_id=n)).frame()[24:26] == b"\0\x09"),
    "sequence number": T6.but(seq=(1 << 32) - 10 * 100),
    "sequence number, IPv4": T6.but(src="10.0.0.1", dst="10.0.0.2", seq=(1 << 32) - 10 * 100),
}


@pytest.mark.parametrize("what", list(WRAPPING))
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "in turn with another flow"])
def test_where_a_field_wraps_around(shared: Bench, engine: str, what: str, steps: int, others: int) -> None:
    """Ten segments, then one whose header differs from the tenth's by just what the others differ by.

    For the wrapping field that is a carry into its neighbour: a malformed packet, or another flow's. The true next
    follow. Read as they come in one look, and with the first five in a look before, so that the flow is known.
    """
    segment = WRAPPING[what]
    run = segment.run(10)
    end = len(run[0]) - len(segment.payload)
    last, before = (int.from_bytes(data[:end], "big") for data in (run[9], run[8]))
    odd = (last + steps * (last - before)).to_bytes(end, "big") + run[9][end:]
    for _ in range(10):
        segment = segment.after()
    beside = iter(U4.but(sport=7, payload=bytes(50)).run(40))
    batch = [data for one in [*run, odd, *segment.run(4)] for data in [one] + [next(beside) for _ in range(others)]]
    for looks in ([batch], [batch[:6], batch[6:]], [batch[:5], batch[5:12], batch[12:]]):
        start(shared)
        for look in looks:
            out = push(shared, look)
            passed = forwarded(look, Road(None, forward_limit(1500)))
            assert out == coalesced(passed) or not ONE_LOOK[engine]
            assert explained(out, passed, 10)
