"""A device that is moved while we are at work on it is not gone: whoever insists finds it where it is."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.kernel.lib import House, Net
from vethd.kernel.births import Nursery
from vethd.kernel.linkstate import LinkState
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.tun import Tap
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec
from vethd.pairs.workers import Workers


@pytest.fixture
def mover(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tap, Net]]:
    """Yield a device that moves away, once, when it is asked for by its ifindex, and where it goes."""
    there, away = house.net(), house.net()
    with closing(Nursery()) as nursery:
        tap, _ = nursery.birth(LinkSpec(name="va"), there.fd)
    with closing(tap):
        ask = Rtnl.link

        def move_and_ask(self: Rtnl, ifindex: int) -> LinkState:
            if "va" in there.names():
                there.move("va", away)
            return ask(self, ifindex)

        monkeypatch.setattr(Rtnl, "link", move_and_ask)
        yield tap, away


def test_moved_is_not_gone(mover: tuple[Tap, Net]) -> None:
    tap, _ = mover
    with closing(Nursery()) as nursery:
        with pytest.raises(VethError) as refusal:
            nursery.locate(tap)
        assert refusal.value.errno == errno.EAGAIN
        tap.close()
        with pytest.raises(VethError) as refusal:
            nursery.locate(tap)
        assert refusal.value.errno == errno.ENODEV


async def test_who_insists_finds_it(mover: tuple[Tap, Net]) -> None:
    tap, away = mover
    workers = await asyncio.to_thread(Workers)
    try:
        found = await workers.locate(tap)
        assert found is not None
        assert found[0].netns_inode == away.inode
    finally:
        await asyncio.to_thread(workers.close)
