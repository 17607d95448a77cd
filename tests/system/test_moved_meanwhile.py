"""A device that is moved while we are at work on it is not gone: whoever insists finds it where it is."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lib.leaks import Traces
from tests.lib.netns import Netns
from vethd.kernel.births import Nursery
from vethd.kernel.linkstate import LinkState
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.tun import Tap
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec
from vethd.pairs.workers import Workers


@pytest.fixture
def mover(root: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tap, Netns]]:  # noqa: ARG001 - the check that we may
    """Give a device that moves away, once, when it is asked for by its ifindex, and where it goes."""
    before = Traces.now()
    with ExitStack() as stack:
        stack.callback(before.assert_nothing_left)
        there, away = Netns.create("vt-there"), Netns.create("vt-away")
        stack.callback(away.delete)
        stack.callback(there.delete)
        nursery = Nursery()
        stack.callback(nursery.close)
        fd = os.open(there.path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        tap, _ = nursery.birth(LinkSpec(name="va"), fd)
        stack.callback(tap.close)
        ask = Rtnl.link

        def move_and_ask(self: Rtnl, ifindex: int) -> LinkState:
            if "va" in there.names():
                there.ip(f"link set va netns {away.name}")
            return ask(self, ifindex)

        monkeypatch.setattr(Rtnl, "link", move_and_ask)
        yield tap, away


def test_moved_is_not_gone(mover: tuple[Tap, Netns]) -> None:
    tap, _ = mover
    nursery = Nursery()
    try:
        with pytest.raises(VethError) as refusal:
            nursery.locate(tap)
        assert refusal.value.errno == errno.EAGAIN
        tap.close()
        with pytest.raises(VethError) as refusal:
            nursery.locate(tap)
        assert refusal.value.errno == errno.ENODEV
    finally:
        nursery.close()


async def test_who_insists_finds_it(mover: tuple[Tap, Netns]) -> None:
    tap, away = mover
    workers = await asyncio.to_thread(Workers)
    try:
        found = await workers.locate(tap)
        assert found is not None
        assert found[0].netns_inode == away.path.stat().st_ino
    finally:
        await asyncio.to_thread(workers.close)
