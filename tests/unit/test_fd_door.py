"""The fd-passing door as it closes: what is under way is answered, and nobody waits for long."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vethd.doors import fdpass
from vethd.doors.callers import Caller, Policy, Room
from vethd.doors.fdpass import FdDoor
from vethd.doors.routing import Api, Call, Reply

DEADLINE_S = 20.0


class Slow:
    """An operation that ends when it is told to, and says when it began."""

    def __init__(self) -> None:
        self.begun, self.end = asyncio.Event(), asyncio.Event()
        self.cancelled = False

    async def __call__(self, call: Call, method: str, path: str, body: bytes) -> Reply:
        assert (call.caller, method, path, body) == (Caller(0, admin=True), "GET", "/slow", b"")
        self.begun.set()
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return Reply(200, "done")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(tmp_path / "fd"))
        sock.listen()
        yield sock


async def ask(listener: socket.socket) -> socket.socket:
    """Send a request that takes its time."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(listener.getsockname())
    client.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(client, b'{"method": "GET", "path": "/slow"}')
    return client


def door(listener: socket.socket) -> FdDoor:
    """Open a door with nothing behind it."""
    api: Any = SimpleNamespace(policy=Policy(), room=Room())
    return FdDoor(cast("Api", api), listener.dup())


async def test_request_under_way_is_answered(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(fdpass, "dispatch", slow)
    monkeypatch.setattr(fdpass, "GRACE_S", DEADLINE_S)
    it = door(listener)
    async with asyncio.timeout(DEADLINE_S):
        with await ask(listener) as client:
            await slow.begun.wait()
            closing = asyncio.create_task(it.close())
            await asyncio.sleep(0)
            slow.end.set()
            await closing
            reply = await asyncio.get_running_loop().sock_recv(client, 1024)
    assert json.loads(reply) == {"status": 200, "body": "done"}


async def test_nobody_waits_for_ever(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(fdpass, "dispatch", slow)
    monkeypatch.setattr(fdpass, "GRACE_S", 0.01)
    it = door(listener)
    async with asyncio.timeout(DEADLINE_S):
        with await ask(listener) as client:
            await slow.begun.wait()
            await it.close()
            assert slow.cancelled
            assert await asyncio.get_running_loop().sock_recv(client, 1024) == b""
