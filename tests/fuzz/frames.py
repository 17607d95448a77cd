"""Frames behind their virtio_net_hdr: every engine's verdict and coalescing is the model's, byte for byte.

The first byte has the settings; then come frames, each behind its length (two bytes, little endian), END between the
batches: what an engine remembers of one batch must not show in the next.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.lib import engines
from vethd.datapath.aio_direction import BATCH, FRAME_MAX, Buffers, Direction
from vethd.datapath.engine import nobody
from vethd.model.drops import DROPS
from vethd.model.gro import coalesce
from vethd.model.verdict import Road, forward_limit, verdict

END = 0xFFFF
MTUS = (68, 600, 1500, 65521)
_native = engines.native()
_buffers = Buffers()


def one_input(data: bytes) -> None:
    """Send batches through both engines."""
    if not data:
        return
    vnet_hdr_len = 24 if data[0] & 1 else 10
    udp, trust = bool(data[0] & 2), bool(data[0] & 4)
    road = Road(None, forward_limit(MTUS[data[0] >> 3 & 3]), trust, vnet_hdr_len)
    direction = Direction(0, _buffers, vnet_hdr_len, None, nobody)
    direction.set_gro(gro=True, udp=udp)
    direction.limit, direction.trust = road.limit, trust
    drops = [0] * DROPS
    for batch in _batches(data[1:]):
        passed = []
        for one in batch:
            drop, flags = verdict(one, road)
            written = bytes([flags]) + one[1:] if drop is None else one
            assert _native.verdict(one, vnet_hdr_len, road.limit, trust) == (-1 if drop is None else drop, written)
            if drop is None:
                passed.append(written)
            else:
                drops[drop] += 1
        told = [tuple(one) for one in coalesce(passed, vnet_hdr_len, udp=udp)]
        assert _native.coalesce(passed, vnet_hdr_len, udp) == told
        assert _through(direction, batch) == [data for data, _ in told]
        assert direction.drops == drops
    assert direction.read == direction.forwarded + sum(drops)


def _batches(data: bytes) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    at = 0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2], "little")
        at += 2
        if length == END or len(batch) == BATCH:
            yield batch
            batch = []
        if length != END:
            frame = data[at : at + length]
            at += length
            if frame and len(frame) <= FRAME_MAX:  # a reader of a TAP is given at least a byte
                batch.append(frame)
    yield batch


def _through(direction: Direction, batch: list[bytes]) -> list[bytes]:
    """Return what the asyncio engine writes of a batch."""
    waiting = iter(batch)
    out: list[bytes] = []

    def readinto(buffer: bytearray) -> int | None:
        frame = next(waiting, None)
        if frame is None:
            return None
        buffer[: len(frame)] = frame
        return len(frame)

    def write(data: bytes | memoryview) -> int:
        out.append(bytes(data))
        return len(data)

    assert direction.pump(readinto, write, lambda _: []) or len(batch) == BATCH
    return out
