"""Doors that close: who was just let in is heard, and who says nothing holds nobody up for long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.lib.wait import DEADLINE_S
from vethd.doors import entrance, fdpass
from vethd.doors.callers import Policy, Room
from vethd.doors.fdpass import FdDoor
from vethd.doors.http import HttpDoor
from vethd.doors.routing import Api, Call, Reply

DOORS = pytest.mark.parametrize("kind", ["http", "fd"])
ASK = {"http": b"GET /v1/openapi.json HTTP/1.0\r\n\r\n", "fd": b'{"method": "GET", "path": "/"}'}


async def answered(_call: Call, _method: str, _path: str, _body: bytes) -> Reply:
    return Reply(200, "done")


@asynccontextmanager
async def let_in(kind: str, path: Path) -> AsyncIterator[tuple[HttpDoor | FdDoor, socket.socket]]:
    """Yield a door with nothing behind it, and who is in and has said nothing."""
    api = cast("Api", SimpleNamespace(policy=Policy(), room=Room()))
    sort = socket.SOCK_STREAM if kind == "http" else socket.SOCK_SEQPACKET
    with socket.socket(socket.AF_UNIX, sort) as listener, socket.socket(socket.AF_UNIX, sort) as client:
        listener.bind(str(path))
        listener.listen()
        door: HttpDoor | FdDoor
        if kind == "http":
            door = HttpDoor(api)
            await door.start(listener.dup())
        else:
            door = FdDoor(api, listener.dup())
        client.setblocking(False)
        client.connect(str(path))
        inside: Any = door._entrance
        async with asyncio.timeout(DEADLINE_S):
            while not inside._unheard:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            yield door, client


@DOORS
async def test_who_was_just_let_in_is_heard(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He has a connection to a daemon that runs: a hang-up would tell him that it does not."""
    monkeypatch.setattr(fdpass, "dispatch", answered)
    monkeypatch.setattr(entrance, "HEAR_S", DEADLINE_S)
    async with let_in(kind, tmp_path / "door") as (door, client):
        closing = asyncio.create_task(door.close())
        for _ in range(20):  # as far as it gets without him
            await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, ASK[kind])
        assert b"200" in await loop.sock_recv(client, 1 << 16)
        await closing


@DOORS
async def test_who_says_nothing_is_hung_up_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "HEAR_S", 0.05)
    async with let_in(kind, tmp_path / "door") as (door, client):
        await door.close()
        assert await asyncio.get_running_loop().sock_recv(client, 100) == b""
