"""A kernel before Linux 6.2, whose TAPs take no super-frame of UDP: datagrams pass alone, TCP coalesces."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.kernel.lib import House
from tests.lib.frames import Vnet
from tests.lib.lab import End, Wire
from tests.lib.segments import TCP, UDP, VNET_LEN, Segment
from tests.lib.wait import DEADLINE_S
from vethd.kernel import probe, tun
from vethd.kernel.births import Nursery
from vethd.kernel.netns import open_own
from vethd.kernel.tun import Tap
from vethd.kernel.uapi import TUN_F_USO4
from vethd.model.drops import Drop
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs import open_pair
from vethd.pairs.library import OpenPair

BURST = 64
OLD = tuple((length, word) for length, word in tun.OFFLOADS if not word & TUN_F_USO4)


@pytest.fixture(params=[True, False], ids=["uso", "old"])
def uso(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Have the kernel take the offload of UDP, or refuse it."""
    if not request.param:
        monkeypatch.setattr(tun, "OFFLOADS", OLD)
    return bool(request.param)


async def burst(pair: OpenPair, wire: Wire, segment: Segment) -> tuple[int, int]:
    """Send a burst, as a local stack does; how many frames were forwarded, and how many the receiver counted."""
    before, _ = await pair.stats()
    with wire.a.packet(vnet=True) as sender:
        for data in segment.run(BURST):
            sender.send(data[VNET_LEN:], Vnet.parse(data[:VNET_LEN]))
    async with asyncio.timeout(DEADLINE_S):
        near, far = await pair.stats()
        counted = -1
        while near.read < before.read + BURST or near.in_flight or near.forwarded != counted:
            counted = near.forwarded  # the kernel's counters are read before the engine's: look twice
            near, far = await pair.stats()
    assert near.drops[Drop.BAD_VNET_HEADER.name.lower()] == 0
    return near.forwarded, far.rx_packets


def test_datagrams_pass_alone_where_the_kernel_takes_no_super_frame(house: House, engine: str, uso: bool) -> None:
    wire = Wire(End(house.net(), "va"), End(house.net(), "vb"))
    peer = LinkSpec(name="vb", netns=str(wire.b.netns.path), up=True)
    spec = PairSpec(name="va", netns=str(wire.a.netns.path), up=True, peer=peer)

    async def coalesces(pair: OpenPair, segment: Segment, bursts: int) -> bool:
        """Return whether any of so many bursts came in fewer frames: a thread may have seen each frame alone."""
        for _ in range(bursts):
            forwarded, received = await burst(pair, wire, segment)
            if received != forwarded:
                return True
        return False

    async def body() -> None:
        async with open_pair(spec, engine=engine) as pair:
            await asyncio.to_thread(wire.wait_carrier)
            assert await coalesces(pair, Segment(proto=UDP), 100 if uso else 5) is uso
            assert await coalesces(pair, Segment(proto=TCP), 100)

    asyncio.run(body())


def test_what_a_tap_can_is_known_from_its_birth(root: None, uso: bool) -> None:  # noqa: ARG001 - the check that we may
    """And handed on: a successor that asked again would set the offloads again."""
    nursery, own = Nursery(), open_own()
    try:
        tap, _ = nursery.birth(LinkSpec(name="vethuso%d"), own)
        assert tap.uso is uso
        successor = Tap.adopt(tuple(os.dup(fd) for fd in tap.fds), uso=tap.uso)
        assert (successor.uso, successor.vnet_hdr_len) == (uso, tap.vnet_hdr_len)
        offload = probe._features(tap)[0]
        assert ("Linux 6.2" in offload.detail) is not uso
        successor.close()
        tap.close()
    finally:
        os.close(own)
        nursery.close()
