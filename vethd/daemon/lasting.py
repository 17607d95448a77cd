"""How pairs outlive the daemon: by systemd's fd store, by `persist = true`, or not at all; composed here."""

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
    """What a daemon does for its successor's sake. memory(), start(), close()."""

    def __init__(self, config: Config, notify: Notify) -> None:
        """Say it where persist is asked for and ignored."""
        self._file = Path(config.state_dir) / FILE
        self._notify = notify
        self._persist = config.persist and not notify.fd_store
        self._persistence: Persistence | None = None
        self._pins: Pins | None = None
        if config.persist and notify.fd_store:
            log.warning("persist is ignored: systemd's fd store keeps the devices, and loses nothing")

    async def memory(self, early: Early) -> Memory | None:
        """Return the memory of pairs that outlive us, or that outlived another: persistent devices are attached to."""
        if not any(name in early.passed for name in COPIES):
            early.passed |= await asyncio.to_thread(regain, self._file)
        if self._notify.fd_store or self._persist or early.passed:
            return Memory(self._notify, early.passed, early.held)
        return None

    async def start(self, manager: Manager, begun: asyncio.Task[None]) -> None:
        """Look after the manager's pairs, once what the daemon begins with is done, and its predecessor has let go."""
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
        """Leave file and persistence to a successor."""
        if self._persistence is not None:
            await self._persistence.pause()

    def resume(self) -> None:
        """Have them again: there is none."""
        if self._persistence is not None:
            self._persistence.resume()

    async def close(self) -> None:
        """Write everything down a last time; before the manager closes."""
        if self._pins is not None:
            self._pins.close()
        if self._persistence is not None:
            await self._persistence.close()
