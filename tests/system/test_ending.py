"""A manager that closes while something is asked of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns
from vethd.datapath.engines import Asked, pick_engine
from vethd.model.api import PairChange
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs import changes
from vethd.pairs.manager import Manager


async def test_a_change_under_way_is_finished(
    root: None,  # noqa: ARG001 - the check that we may
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netns = Netns.create(f"{PREFIX}ending")
    try:
        manager = Manager(pick_engine(Asked("asyncio"), asyncio.get_running_loop()))
        entry = await manager.newlink(PairSpec(name="va", netns=netns.name, peer=LinkSpec(name="vb", netns=netns.name)))
        begun, go_on = asyncio.Event(), asyncio.Event()
        chore = manager.workers.chore

        async def slow(function: Any, *args: Any) -> Any:
            result = await chore(function, *args)
            if function is changes.apply:
                begun.set()
                await go_on.wait()
            return result

        monkeypatch.setattr(manager.workers, "chore", slow)
        changing = asyncio.create_task(manager.changelink(entry, PairChange(mtu=1400)))
        await begun.wait()
        closing = asyncio.create_task(manager.close())
        done, _ = await asyncio.wait({closing}, timeout=0.2)
        assert not done
        go_on.set()
        await changing
        await closing
        assert entry.spec.mtu == 1400
        assert netns.names() == set()
    finally:
        netns.delete()
