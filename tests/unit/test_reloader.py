"""A reload is all or nothing: what the pairs refuse leaves the engine's settings as they were."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from vethd.daemon.config import Config
from vethd.daemon.service import _Reloader, _start
from vethd.model.api import EngineChange
from vethd.model.errors import ConfigError
from vethd.model.spec import PairSpec


@pytest.mark.parametrize("refused", [True, False])
def test_what_the_pairs_refuse_changes_no_setting(refused: bool) -> None:
    did: list[Any] = []

    async def reconcile(_: object) -> dict[str, int]:
        did.append("reconcile")
        if refused:
            raise ConfigError("vethd.toml", "pair", "refused")
        return {"created": 0}

    manager: Any = SimpleNamespace(
        tuning=SimpleNamespace(info=lambda: SimpleNamespace(workers=2)), change_engine=did.append
    )
    notify: Any = SimpleNamespace(reloading=lambda: None, ready=lambda _: None)
    declared: Any = SimpleNamespace(reconcile=reconcile)

    async def reload() -> None:
        reloader = _Reloader(Config(), lambda: Config(spin_us=7, gro=False, ring=99), manager, declared, notify)
        if refused:
            with pytest.raises(ConfigError):
                await reloader.reload()
        else:
            await reloader.reload()

    asyncio.run(reload())
    assert did == (
        ["reconcile"] if refused else ["reconcile", EngineChange(spin_us=7, moderation_us=50, gro=False, ring=99)]
    )


@pytest.mark.parametrize(("name", "warned"), [("native", False), ("asyncio", True)])
async def test_a_former_name_of_the_engine_is_the_same_engine(name: str, warned: bool) -> None:
    async def take(_pairs: list[Any]) -> dict[str, int]:
        return {}

    manager: Any = SimpleNamespace(
        tuning=SimpleNamespace(info=lambda: SimpleNamespace(workers=2)), change_engine=lambda _change: None
    )
    notify: Any = SimpleNamespace(reloading=lambda: None, ready=lambda _: None)
    declared: Any = SimpleNamespace(reconcile=take)
    reloader = _Reloader(Config(engine="uring"), lambda: Config(engine=name), manager, declared, notify)
    with capture_logs() as lines:
        await reloader.reload()
    assert [line["event"] for line in lines] == (["setting needs a restart"] if warned else [])


async def test_a_reload_before_the_start_is_not_undone_by_it() -> None:
    """Both wait for one lock; whoever is first, the pairs of the config that was read last stay."""
    told: list[list[Any]] = []

    async def take(pairs: list[Any]) -> dict[str, int]:
        told.append(pairs)
        return {}

    old, new = Config(), Config(pair=[PairSpec(name="va")])
    declared: Any = SimpleNamespace(reconcile=take, start=take)
    notify: Any = SimpleNamespace(reloading=lambda: None, ready=lambda _status: None, fd_store=True)
    info = SimpleNamespace(workers=0)
    manager: Any = SimpleNamespace(
        tuning=SimpleNamespace(info=lambda: info), change_engine=lambda _change: None, entries={}, reconciled=None
    )
    reloader = _Reloader(old, lambda: new, manager, declared, notify)
    await reloader.reload()
    await _start(declared, old, notify, manager, reloader)
    assert told == [new.pair, new.pair]


@pytest.mark.parametrize("managed", [True, False])
@pytest.mark.parametrize("again", ["other", "same", "bad"])
async def test_what_was_written_during_the_start_is_taken_up_before_it_ends(again: str, managed: bool) -> None:
    """systemctl reload waits for the end of a start, and says that it is done."""
    told: list[Any] = []

    async def take(pairs: list[Any]) -> dict[str, int]:
        told.append(pairs)
        return {}

    def reread() -> Config:
        if again == "bad":
            raise ConfigError("vethd.toml", "pair", "wrong")
        return new if again == "other" else Config()

    new = Config(pair=[PairSpec(name="va")])
    declared: Any = SimpleNamespace(reconcile=take, start=take)
    notify: Any = SimpleNamespace(ready=lambda _status: told.append("ready"), fd_store=managed)
    info = SimpleNamespace(workers=0)
    manager: Any = SimpleNamespace(
        tuning=SimpleNamespace(info=lambda: info), change_engine=lambda _change: None, entries={}, reconciled=None
    )
    await _start(declared, Config(), notify, manager, _Reloader(Config(), reread, manager, declared, notify))
    assert told == ([[], new.pair, "ready"] if managed and again == "other" else [[], "ready"])
