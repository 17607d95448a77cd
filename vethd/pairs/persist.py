"""`persist = true`: devices outlive the process by TUNSETPERSIST, and a file lists them for the next daemon.

Theory of operation. The kernel's flag and the file cannot change at the same instant, and the daemon may be killed
between the two changes. A persistent device that the file does not list would stay for ever and block its name; a
listed device that is gone only causes a log line at the next start. So a device is listed before it is made persistent,
and persistence is removed before the device is removed from the list. A pair is made persistent only if both its ends
are in namespaces with a name (of `ip netns`) or in the daemon's own; otherwise it could not be found again.

Every event of a pair and every change of the mount table triggers an update; PAUSE_S limits their rate. A renamed or
moved device is therefore listed again after that time at most. The file is not fsynced: no device survives a crash that
loses the page cache.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from vethd.kernel import netns
from vethd.kernel.mounts import MountWatch
from vethd.kernel.tun import Tap
from vethd.memory.keeper import Memory
from vethd.memory.regain import boot_id
from vethd.model.errors import VethError
from vethd.model.persisted import Spot, Whereabouts, write_down
from vethd.pairs.link import Link
from vethd.pairs.manager import Manager

log = structlog.get_logger()

PAUSE_S = 0.1


class _End(NamedTuple):
    """An end as seen on the loop: its first fd's name, its device, its namespace's inode, its spot without netns."""

    fd_name: str
    tap: Tap
    netns_inode: int
    spot: Spot


class Persistence:
    """Keeps the file and the devices' persistence in step with the pairs. start(); close() before the manager."""

    def __init__(self, manager: Manager, memory: Memory, file: Path) -> None:
        """Manage the persistence of manager's pairs, from start() on; memory is the manager's."""
        self._manager = manager
        self._memory = memory
        self._file = file
        self._boot = boot_id()
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._paused = False
        self._persistent: dict[str, Tap] = {}
        self._written = b""
        self._complained = ""
        self._mounts: MountWatch | None = None

    def start(self) -> None:
        """Start to follow the pairs, and write the present ones."""
        self._mounts = MountWatch(asyncio.get_running_loop(), self._wake.set)
        self._manager.spawn(self._listen())
        self._manager.spawn(self._keep_writing())
        self._wake.set()

    async def pause(self) -> None:
        """Change neither the file nor persistence from now on: they may belong to a successor."""
        self._paused = True
        async with self._writing:
            pass

    def resume(self) -> None:
        """Continue after pause(), if no successor took over."""
        self._paused = False
        self._written = b""  # the failed successor may have written the file
        self._persistent.clear()
        self._wake.set()

    async def close(self) -> None:
        """Write the file a last time, unless paused, and stop; the devices stay as they are."""
        if self._mounts is not None:
            self._mounts.close()
            await self._write()
            self._paused = True

    async def _listen(self) -> None:
        listener = self._manager.hub.listen()
        try:
            async for _ in listener:
                self._wake.set()
        finally:
            listener.close()

    async def _keep_writing(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write()
            await asyncio.sleep(PAUSE_S)

    async def _write(self) -> None:
        async with self._writing:
            if self._paused:
                return
            # a pair that is still being made is already alive, but not in the record yet
            entries = [entry for entry in self._manager.entries.values() if self._memory.knows(entry.id)]
            ends = [[_end(link) for link in entry.live.links] for entry in entries if entry.live is not None]
            try:
                await self._manager.workers.chore(self._carry_out, self._memory.latest, ends)
                self._complained = ""
            except (OSError, VethError) as error:
                if self._complained != str(error):
                    self._complained = str(error)
                    log.warning("persistent device file not written", file=str(self._file), reason=str(error))

    def _carry_out(self, record: bytes, pairs: list[list[_End]]) -> None:
        """Update the file and the devices' persistence to match the pairs; for a worker thread."""
        names = netns.names() | {self._manager.workers.nursery.own_inode: ""}
        found = [end for ends in pairs if all(end.netns_inode in names for end in ends) for end in ends]
        spots = {end.fd_name: msgspec.structs.replace(end.spot, netns=names[end.netns_inode]) for end in found}
        for fd_name in self._persistent.keys() - spots.keys():
            self._persistent[fd_name].set_persist(on=False)
            del self._persistent[fd_name]
        data = write_down(record, Whereabouts(boot=self._boot, spots=spots))
        if data != self._written:
            self._replace(data)
            self._written = data
        for end in found:
            if end.fd_name not in self._persistent:
                end.tap.set_persist(on=True)
                self._persistent[end.fd_name] = end.tap

    def _replace(self, data: bytes) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=f".{self._file.name}.", dir=self._file.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            Path(temporary).replace(self._file)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise


async def give_up(manager: Manager, file: Path) -> None:
    """Remove the persistence of manager's devices, and the file: the devices then disappear with their last fd."""
    if not await manager.workers.chore(file.exists):
        return
    taps = [link.tap for entry in manager.entries.values() if entry.live for link in entry.live.links]
    await manager.workers.chore(_forget, taps, file)


def _forget(taps: list[Tap], file: Path) -> None:
    try:
        for tap in taps:
            tap.set_persist(on=False)
        file.unlink(missing_ok=True)
    except (OSError, VethError) as error:
        log.warning("devices may remain after this daemon ends", file=str(file), reason=str(error))


def _end(link: Link) -> _End:
    state = link.state
    spot = Spot(
        name=state.name, netns="", ifindex=state.ifindex, address=state.address, vnet_hdr_len=link.tap.vnet_hdr_len
    )
    return _End(link.kept[0], link.tap, link.place.netns_inode, spot)
