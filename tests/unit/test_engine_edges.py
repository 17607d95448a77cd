"""Every engine where no verdict decides: queues, fairness, drying, closing. Tests without `engine` are of asyncio's."""

from __future__ import annotations

import socket

import pytest

from tests.lib.sockwire import LOOPS, LoopFactory, bench, frame
from vethd.datapath import aio_direction
from vethd.datapath.aio_direction import BATCH
from vethd.model.drops import Drop
from vethd.model.vnet import VnetHdr


@pytest.fixture(params=list(LOOPS))
def factory(request: pytest.FixtureRequest) -> LoopFactory:
    return LOOPS[request.param]


def test_new_wire_is_closed_and_knows_no_length(factory: LoopFactory, engine: str) -> None:
    with bench(factory, engine=engine) as it:
        it.devices[0][0].send(frame(60))
        it.settle(1)
        assert it.counters(0).drops[Drop.NO_CARRIER] == 1
        it.wire.set_gate(0, None)
        it.devices[0][0].send(frame(60))
        it.settle(2)
        assert it.counters(0).drops[Drop.OVERSIZE] == 1
        assert it.received(1) == []


def test_super_frame_passes_whole(factory: LoopFactory, engine: str) -> None:
    """65,226 bytes is what TCP hands over; nothing is cut."""
    with bench(factory, engine=engine) as it:
        it.open()
        big = frame(65226, 7, VnetHdr(1, 1, 66, 1448, 34, 16))
        it.devices[0][0].send(big)
        it.settle(1)
        assert it.received(1) == [big]
        assert it.counters(0).forwarded_bytes == 65226


@pytest.mark.parametrize("urgent", [(), (1,)])
@pytest.mark.parametrize("queues", [(1, 1), (4, 4), (4, 2), (2, 4), (3, 1)])
def test_flow_stays_on_its_queue(
    factory: LoopFactory, engine: str, queues: tuple[int, int], urgent: tuple[int, ...]
) -> None:
    """What comes in by queue n goes out by queue n, counted round where the other end has fewer; in order."""
    with bench(factory, queues, engine=engine, workers=2, urgent=urgent) as it:
        it.open()
        for side in (0, 1):
            sent = {q: [frame(60 + q, n) for n in range(20)] for q in range(queues[side])}
            for n in range(20):
                for q, flow in sent.items():
                    it.devices[side][q].send(flow[n])
            it.settle(*(20 * queues[n] for n in range(side + 1)))
            for out in range(queues[1 - side]):
                got = it.received(1 - side, out)
                for q, flow in sent.items():
                    mine = [data for data in got if len(data) == 10 + 60 + q]
                    assert mine == (flow if q % queues[1 - side] == out else [])


def test_two_full_directions_take_turns(factory: LoopFactory) -> None:
    """Neither is ever a batch and a half ahead of the other, and both come to their end."""
    total = 10 * BATCH
    with bench(factory) as it:
        for side in (0, 1):
            for _ in range(total):
                it.devices[side][0].send(frame(60))
        it.wire.set_limit(0, 1518)
        it.wire.set_limit(1, 1518)
        most = 0
        while it.counters(0).read < total or it.counters(1).read < total:
            before = it.counters(0).read + it.counters(1).read
            it.turn()
            most = max(most, it.counters(0).read + it.counters(1).read - before)
            assert abs(it.counters(0).read - it.counters(1).read) <= 2 * BATCH
        assert most <= 4 * BATCH, "one turn of the loop is short"


def test_turn_is_short_in_bytes_too(monkeypatch: pytest.MonkeyPatch, factory: LoopFactory) -> None:
    """Super-frames take longer to copy: a batch ends with the frame that passes its budget of bytes."""
    monkeypatch.setattr(aio_direction, "BATCH_BYTES", 10_000)
    with bench(factory) as it:
        for n in range(50):
            it.devices[0][0].send(frame(1490, n))
        most = 0
        while it.counters(0).read < 50:
            before = it.counters(0).read
            it.turn()
            most = max(most, it.counters(0).read - before)
        assert most <= 2 * 7, "7 of 1500 bytes; a loop may look twice in one turn"


def test_many_wires_take_turns(factory: LoopFactory) -> None:
    """A wire at full speed delays another by one batch."""
    with bench(factory) as busy, bench(factory) as _:
        quiet_device, quiet_fd = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sink_device, sink_fd = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        socks = (quiet_device, quiet_fd, sink_device, sink_fd)
        for sock in socks:
            sock.setblocking(False)
        wire = busy.engine.join(([quiet_fd.fileno()], [sink_fd.fileno()]), 10, busy.died.append)
        for _ in range(20 * BATCH):
            busy.devices[0][0].send(frame(60))
        quiet_device.send(frame(60))
        busy.until(lambda: wire.counters(0).read == 1)
        assert busy.counters(0).read <= 3 * BATCH
        wire.close()
        for sock in socks:
            sock.close()


def test_closed_wire_touches_nothing(factory: LoopFactory, engine: str) -> None:
    """Not even a frame that was waiting when it closed; and its fds may be somebody else's at once."""
    with bench(factory, engine=engine) as it:
        it.open()
        it.devices[0][0].send(frame(60, 1))
        it.wire.close()
        it.wire.close()
        for _ in range(5):
            it.turn()
        assert it.fds[0][0].recv(100) == frame(60, 1), "still where it was"
        assert it.received(1) == []
        assert it.counters(0).read == 0
        heard: list[int] = []
        it.loop.add_reader(it.fds[0][0].fileno(), heard.append, 1)
        it.devices[0][0].send(frame(60, 2))
        it.until(lambda: bool(heard))
        it.loop.remove_reader(it.fds[0][0].fileno())
        assert it.wire.dry(0)
        assert it.counters(0).read == 0
        assert it.died == []


def test_close_loses_nothing(factory: LoopFactory, engine: str) -> None:
    """What was read is written; the rest stays where it was. Wherever it is closed, nothing is in flight then."""
    for turns in range(4):
        with bench(factory, engine=engine) as it:
            it.open()
            sent = [frame(60, n) for n in range(256)]
            for _ in range(turns):
                it.turn()
            for data in sent:
                it.devices[0][0].send(data)
            for _ in range(turns):
                it.turn()
            it.wire.close()
            assert it.counters(0).in_flight == 0
            written = it.received(1)
            assert it.counters(0).forwarded == len(written)
            assert written + it.received(0, of=it.fds) == sent


def test_engine_closes_its_wires(factory: LoopFactory, engine: str) -> None:
    with bench(factory, engine=engine) as it:
        it.open()
        it.turn()
        it.engine.close()
        it.devices[0][0].send(frame(60))
        it.turn()
        assert it.received(0, of=it.fds) == [frame(60)]
        it.engine.close()


def test_dry_reads_all_that_waits(factory: LoopFactory, engine: str) -> None:
    """Without a turn of the loop, more than one batch of it, and says so."""
    with bench(factory, engine=engine) as it:
        it.open()
        for n in range(5 * BATCH):
            it.devices[0][0].send(frame(60, n % 256))
        assert it.wire.dry(0)
        assert it.counters(0).forwarded == 5 * BATCH
        assert it.received(1) == [frame(60, n % 256) for n in range(5 * BATCH)]
        assert it.wire.dry(1)
