"""The old daemon's side of a handover that fails."""

from __future__ import annotations

import errno
import socket
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from vethd.daemon import replace
from vethd.model.errors import VethError


@pytest.mark.parametrize("failure", [VethError(errno.ENOSPC, "newlink"), OSError(errno.ENOMEM, "no memory")])
async def test_a_failure_to_pack_resumes(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    link = SimpleNamespace(kept=["u1"])
    pair = MagicMock(links=(link, link))
    entry = SimpleNamespace(live=pair, spec=None)
    workers = SimpleNamespace(insist=AsyncMock(return_value="seen"))
    manager: Any = SimpleNamespace(entries={"p1": entry}, workers=workers)
    giver = replace.Giver(manager, MagicMock(pause=AsyncMock()), MagicMock(), MagicMock(), MagicMock())
    giver.doors = doors = MagicMock(open=AsyncMock(), close=AsyncMock())
    monkeypatch.setattr(replace, "pack", MagicMock(side_effect=failure))
    connection, other = socket.socketpair()
    with connection, other:
        await giver._give_to(connection, MagicMock())
    pair.go_on.assert_called_once_with(None, "seen")
    doors.open.assert_awaited_once()
