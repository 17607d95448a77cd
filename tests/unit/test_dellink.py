"""dellink() while another change of the pair is in progress."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from unittest.mock import AsyncMock, MagicMock

import pytest

from vethd.model.spec import PairSpec
from vethd.pairs.entry import Entry
from vethd.pairs.events import EventHub
from vethd.pairs.manager import Manager


@pytest.fixture
def entry() -> Entry:
    return Entry("p1", PairSpec(), "runtime", live=cast("Any", MagicMock()))


@pytest.fixture
def manager(entry: Entry) -> Manager:
    """Return a manager without a machine, of one pair."""
    manager = object.__new__(Manager)
    manager.entries = {entry.id: entry}
    manager.memory = None
    manager.workers = MagicMock(bury=AsyncMock())
    manager.hub = MagicMock(spec=EventHub)
    return manager


async def test_a_cancelled_delete_leaves_a_pair_that_can_be_deleted(manager: Manager, entry: Entry) -> None:
    async with entry.lock:
        deleting = asyncio.create_task(manager.dellink(entry))
        await asyncio.sleep(0)
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
    assert manager.entries == {"p1": entry}
    await manager.dellink(entry)
    assert manager.entries == {}
    assert entry.live is None


async def test_a_pair_that_loses_an_end_meanwhile_is_reported_once(manager: Manager, entry: Entry) -> None:
    assert entry.live is not None
    async with entry.lock:
        losing = asyncio.create_task(manager._lost_an_end(entry, entry.live, "va is gone"))
        await asyncio.sleep(0)
        deleting = asyncio.create_task(manager.dellink(entry))
        await asyncio.sleep(0)
    await asyncio.gather(losing, deleting)
    assert [call.args for call in cast("MagicMock", manager.hub.tell).call_args_list] == [("pair_deleted",)]
