"""`vethd --replace`: replace a running daemon by a new one without losing frames, counters or requests.

Theory of operation. The new daemon asks when it is ready to forward. The old daemon closes its doors (callers wait in
the sockets' backlog), stops reading (frames wait in the devices), and passes all its fds. So no frame is read twice or
reordered. The new daemon forwards at once, then adopts the pairs, opens the doors and confirms. The old daemon then
ends and leaves the sockets and the lock in place. If the confirmation does not come, the old daemon kills the new one,
as two daemons must not read from one device, and resumes as before.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from vethd.daemon.config import Config
from vethd.daemon.doors import Doors
from vethd.daemon.early import Early
from vethd.daemon.lasting import Lasting
from vethd.daemon.notify import Notify
from vethd.daemon.sockets import Sockets
from vethd.datapath.engines import pick_engine
from vethd.doors import handover
from vethd.doors.callers import Caller
from vethd.kernel.glance import Glance, glance
from vethd.memory.takeover import hold, read_record
from vethd.model.errors import VethError
from vethd.pairs.adoption import Parcel, pack
from vethd.pairs.link import Link
from vethd.pairs.manager import Manager
from vethd.pairs.workers import put_filters

log = structlog.get_logger()

END_S = 5.0
_PEERCRED = struct.Struct("3i")


async def take_over(config: Config, notify: Notify, early: Early) -> tuple[Early, Callable[[], None]]:
    """Take over the running daemon's pairs and forward them; also return the function that confirms the handover.

    If no daemon runs, returns early unchanged and a function that does nothing. Raises VethError, and then the running
    daemon continues.
    """
    if notify.fd_store:
        reason = "--replace is not for a systemd service, whose devices systemd keeps: use `systemctl restart`"
        raise VethError(errno.EOPNOTSUPP, "replace", reason=reason)
    loop = asyncio.get_running_loop()
    engine = pick_engine(config.asked, loop).engine
    try:
        asked = await asyncio.to_thread(handover.ask, config.socket)
    except VethError:
        engine.close()
        raise
    if asked is None:
        engine.close()
        log.info("no running daemon to replace", socket=config.socket)
        return early, lambda: None
    connection, fds = asked
    began = time.monotonic()
    early = Early(fds, engine)
    record, _ = read_record(fds)
    if record is not None:
        hold(record, fds, engine, early.held, gro=config.gro)
    early.after_ms = round((time.monotonic() - began) * 1000, 1)
    return early, partial(handover.confirm, connection)


class Giver:
    """The old daemon's side of a handover."""

    def __init__(
        self,
        manager: Manager,
        lasting: Lasting,
        sockets: Sockets,
        busy: asyncio.Lock,
        stop: asyncio.Event,
    ) -> None:
        """Give manager's pairs away when busy is free, and then set stop."""
        self.doors: Doors | None = None
        self._manager = manager
        self._sockets = sockets
        self._busy = busy
        self._stop = stop
        self._lasting = lasting
        self._task: asyncio.Task[None] | None = None

    def asked(self, connection: socket.socket, caller: Caller, data: bytes) -> bool:
        """Handle a request for a handover and return True; False for other requests. The caller closes connection."""
        if not handover.is_asked(data):
            return False
        if caller.uid not in (0, os.geteuid()):
            handover.refuse(
                connection,
                403,
                VethError(errno.EPERM, "handover", reason="only root and the daemon's own user may replace it"),
            )
        elif self._manager.memory is not None and self._manager.memory.kept_elsewhere:
            reason = "systemd keeps this daemon's devices: use `systemctl restart`"
            handover.refuse(connection, 409, VethError(errno.EBUSY, "handover", reason=reason))
        elif self._stop.is_set() or (self._task is not None and not self._task.done()):
            reason = "the daemon is stopping, or another handover is in progress"
            handover.refuse(connection, 409, VethError(errno.EBUSY, "handover", reason=reason))
        else:
            self._task = asyncio.get_running_loop().create_task(self._give(connection.dup()))
        return True

    async def settled(self) -> None:
        """Wait until no handover is in progress."""
        if self._task is not None:
            await self._task

    async def _give(self, connection: socket.socket) -> None:
        with connection:
            peer = _Peer(connection)
            try:
                async with self._busy:
                    await self._give_to(connection, peer)
            finally:
                peer.close()

    async def _give_to(self, connection: socket.socket, peer: _Peer) -> None:
        assert self.doors is not None  # noqa: S101 - no request can arrive before they are open
        try:
            parcel = Parcel()
        except OSError as error:  # no file descriptors left
            with suppress(OSError):  # the new daemon may have hung up
                handover.refuse(connection, 500, VethError(error.errno or errno.EMFILE, "handover"))
            return
        await self.doors.close()
        await self._lasting.pause()
        pairs = [(entry, entry.live) for entry in self._manager.entries.values() if entry.live is not None]
        names = [link.kept for _, pair in pairs for link in pair.links]
        for _, pair in pairs:
            pair.halt()
        try:
            pack(self._manager, parcel)
            await asyncio.to_thread(handover.give, connection, self._sockets.fds() | parcel.fds)
        except (VethError, OSError) as error:
            log.warning("handover failed, resuming", by=peer.pid, reason=str(error))
            await asyncio.to_thread(peer.end)
            for link, kept in zip([link for _, pair in pairs for link in pair.links], names, strict=True):
                link.kept = kept
            for entry, pair in pairs:
                seen = await self._manager.workers.insist(_look, pair.links) if entry.live is pair else None
                if seen is not None:
                    pair.go_on(entry.spec, seen)
                else:
                    self._manager.ended(pair, "a device is gone")
            self._lasting.resume()
            await self.doors.open()
        else:
            log.info("replaced", by=peer.pid)
            self._sockets.leave()
            self._stop.set()
        finally:
            parcel.close()


def _look(links: tuple[Link, Link]) -> tuple[Glance, Glance]:
    """Attach our filters instead of the new daemon's, and read the devices' state; for a worker thread."""
    put_filters(*links)
    return glance(links[0].tap), glance(links[1].tap)


class _Peer:
    """The process that asked for the handover, held by a pidfd."""

    def __init__(self, connection: socket.socket) -> None:
        self.pid: int = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))[
            0
        ]
        self._fd = -1
        with suppress(OSError):  # dead already, or in another PID namespace
            self._fd = os.pidfd_open(self.pid)

    def end(self) -> None:
        """Kill the process and wait for its end, as it holds our devices' fds. Blocks."""
        if self._fd < 0:
            return
        with suppress(OSError):  # no permission, or dead already
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        if not poller.poll(END_S * 1000):
            log.warning("the new daemon does not exit", pid=self.pid)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
