"""A worker of the native engine and its lanes, without an engine: the thread begins when the test says so."""

from __future__ import annotations

import os
import socket
import threading
from types import ModuleType
from typing import Any

from tests.lib.wait import wait_until
from vethd.datapath.engine import Counters
from vethd.model.drops import Drop

OPEN = -1


class Yard:
    """A worker, its thread once it began, and sockets and lanes that close with it."""

    def __init__(self, native: ModuleType) -> None:
        self.native = native
        self.worker = native.Worker(50, 50)
        self.thread = threading.Thread(target=self.worker.run, name="worker", daemon=True)
        self.lanes: list[Any] = []
        self.fds: list[int] = []

    def begin(self) -> None:
        """Let the worker run."""
        self.thread.start()

    def pair(self, kind: socket.SocketKind = socket.SOCK_SEQPACKET, room: int = 8 << 20) -> tuple[int, int]:
        """Return the two ends of a socketpair."""
        pair = socket.socketpair(socket.AF_UNIX, kind)
        for sock in pair:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        return self.own(pair[0].detach()), self.own(pair[1].detach())

    def own(self, fd: int) -> int:
        """Close fd with the yard."""
        self.fds.append(fd)
        return fd

    def lane(self, src: int, dst: int, gate: int = OPEN, tag: int = 0, *, urgent: bool = False) -> Any:
        """Make a lane that lets every length pass, and start it."""
        lane = self.native.Lane(self.worker, src, dst, 10, tag, gate, urgent)
        lane.set_limit(65535)
        lane.start()
        self.lanes.append(lane)
        return lane

    def close(self) -> None:
        """Close the lanes, end the thread, close the descriptors."""
        for lane in self.lanes:
            lane.close()
        self.worker.stop()
        if self.thread.ident is not None:
            self.thread.join()
        self.worker.close()
        for fd in set(self.fds):
            os.close(fd)


def counters(lane: Any) -> Counters:
    """Read a lane's counters, and see that they add up."""
    it = Counters(*lane.counters())
    assert it.read == it.forwarded + sum(it.drops) + it.in_flight
    assert sum(it.write_errors.values()) == it.drops[Drop.WRITE_ERROR]
    return it


def settled(lane: Any, read: int) -> Counters:
    """Wait until it has read so many frames and none is in flight."""

    def look() -> Counters | None:
        it = counters(lane)
        return it if it.read >= read and not it.in_flight else None

    found = wait_until(look)
    assert found is not None
    return found
