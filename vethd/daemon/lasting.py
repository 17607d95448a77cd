"""Compose the means by which pairs outlive the daemon: systemd's fd store, `persist = true`, or none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from vethd.daemon.config import Config
from vethd.daemon.early import Early
from vethd.daemon.notify import Notify
from vethd.memory.keeper import Memory
from vethd.memory.regain import FILE, regain
from vethd.memory.takeover import COPIES
from vethd.pairs.manager import Manager
from vethd.pairs.persist import Persistence, give_up
from vethd.pairs.pins import Pins

log = structlog.get_logger()


class Lasting:
    """Prepares the takeover by a successor. Call memory(), start() and close()."""

    def __init__(self, config: Config, notify: Notify) -> None:
        """Take the config and the service manager; log a warning if persist is set and ignored."""
        self._file = Path(config.state_dir) / FILE
        self._notify = notify
        self._persist = config.persist and not notify.fd_store
        self._persistence: Persistence | None = None
        self._pins: Pins | None = None
        if config.persist and notify.fd_store:
            log.warning("persist ignored: systemd's fd store already keeps the devices")

    async def memory(self, early: Early) -> Memory | None:
        """Return the memory for pairs that outlive a daemon, None if there are none; attaches to persistent devices."""
        if not any(name in early.passed for name in COPIES):
            early.passed |= await asyncio.to_thread(regain, self._file)
        if self._notify.fd_store or self._persist or early.passed:
            return Memory(self._notify, early.passed, early.held)
        return None

    async def start(self, manager: Manager, begun: asyncio.Task[None]) -> None:
        """Manage the persistence of the manager's pairs, after begun: the daemon's first reconciliation."""
        await asyncio.wait((begun,))
        if begun.cancelled():
            return
        self._pins = Pins(manager)
        await self._pins.start()
        if self._persist and manager.memory is not None:
            self._persistence = Persistence(manager, manager.memory, self._file)
            self._persistence.start()
        else:
            await give_up(manager, self._file)

    async def pause(self) -> None:
        """Stop changing the file and persistence, as a successor may now own them."""
        if self._persistence is not None:
            await self._persistence.pause()

    def resume(self) -> None:
        """Continue after pause(), if no successor took over."""
        if self._persistence is not None:
            self._persistence.resume()

    async def close(self) -> None:
        """Write the file a last time; call before the manager closes."""
        if self._pins is not None:
            self._pins.close()
        if self._persistence is not None:
            await self._persistence.close()
