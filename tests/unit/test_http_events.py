"""GET /v1/events of the HTTP door: a client that hangs up is forgotten at once, whether or not anything happens."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from tests.lib.wait import DEADLINE_S
from vethd.doors.callers import Policy, Room
from vethd.doors.http import HttpDoor
from vethd.doors.routing import Api
from vethd.pairs.events import EventHub

LISTENERS = 3


async def test_listener_that_hangs_up_is_forgotten_without_an_event(tmp_path: Path) -> None:
    """The door's next write would notice it, but on a quiet machine there is none."""
    hub, loop = EventHub(), asyncio.get_running_loop()
    api = cast("Api", SimpleNamespace(policy=Policy(), room=Room(), manager=SimpleNamespace(hub=hub)))
    door = HttpDoor(api)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "door"))
        listener.listen()
        await door.start(listener.dup())
    before = asyncio.all_tasks()
    async with asyncio.timeout(DEADLINE_S):
        for count in range(1, LISTENERS + 1):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect(str(tmp_path / "door"))
            await loop.sock_sendall(client, b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in await loop.sock_recv(client, 1 << 16)
            assert len(hub._listeners) == 1, count
            client.close()
            while hub._listeners or asyncio.all_tasks() > before:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
        await door.close()
