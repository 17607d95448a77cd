"""A reload is all or nothing: what the pairs refuse leaves the engine's settings as they were."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from vethd.daemon.config import Config
from vethd.daemon.service import _Reloader
from vethd.model.api import EngineChange
from vethd.model.errors import ConfigError


@pytest.mark.parametrize("refused", [True, False])
def test_what_the_pairs_refuse_changes_no_setting(refused: bool) -> None:
    did: list[Any] = []

    async def reconcile(_: object) -> dict[str, int]:
        did.append("reconcile")
        if refused:
            raise ConfigError("vethd.toml", "pair", "refused")
        return {"created": 0}

    manager: Any = SimpleNamespace(
        tuning=SimpleNamespace(info=lambda: SimpleNamespace(spin_us=50)), change_engine=did.append
    )
    notify: Any = SimpleNamespace(reloading=lambda: None, ready=lambda _: None)
    declared: Any = SimpleNamespace(reconcile=reconcile)

    async def reload() -> None:
        reloader = _Reloader(Config(), lambda: Config(spin_us=7, gro=False), manager, declared, notify)
        if refused:
            with pytest.raises(ConfigError):
                await reloader.reload()
        else:
            await reloader.reload()

    asyncio.run(reload())
    assert did == (["reconcile"] if refused else ["reconcile", EngineChange(spin_us=7, gro=False)])
