"""`persist = true`: devices outlive the process by TUNSETPERSIST, and a file tells the next one where they are.

Theory of operation. What the kernel keeps and what the file says change one after the other, and a kill may come
between. A device that is persistent and that nobody wrote down would be in everybody's way for ever; one that is
written down and gone is merely told at the next start. So: a device is written down before it is made persistent, and
what is to be written down no more is persistent no more before that. A pair whose ends are not both where a name
leads (`ip netns`, or our own namespace) could not be found again, and is not made persistent.

Whatever happens to any pair, and every change of the mount table, is a reason to look; PAUSE_S bounds how often. After
that long a renamed or moved device is written down anew. Not fsynced: no device outlives what the page cache does not.
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
    """An end as it was on the loop: the name of its first fd, its device, where that is, and its spot but for that."""

    fd_name: str
    tap: Tap
    netns_inode: int
    spot: Spot


class Persistence:
    """Keeps the file and the devices' persistence as the manager's pairs are. start(); close() before the manager."""

    def __init__(self, manager: Manager, memory: Memory, file: Path) -> None:
        """Look after the pairs of manager, whose memory that is; nothing happens before start()."""
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
        """Begin, with what there is."""
        self._mounts = MountWatch(asyncio.get_running_loop(), self._wake.set)
        self._manager.spawn(self._listen())
        self._manager.spawn(self._keep_writing())
        self._wake.set()

    async def pause(self) -> None:
        """Touch neither file nor persistence from now on: they are a successor's, perhaps."""
        self._paused = True
        async with self._writing:
            pass

    def resume(self) -> None:
        """Go on after pause(): there is no successor."""
        self._paused = False
        self._written = b""  # he may have written, too
        self._persistent.clear()
        self._wake.set()

    async def close(self) -> None:
        """Write down how everything is, unless paused, and end; the devices stay as they are."""
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
            # one that is still being made lives already, and is not in the record yet
            entries = [entry for entry in self._manager.entries.values() if self._memory.knows(entry.id)]
            ends = [[_end(link) for link in entry.live.links] for entry in entries if entry.live is not None]
            try:
                await self._manager.workers.chore(self._carry_out, self._memory.latest, ends)
                self._complained = ""
            except (OSError, VethError) as error:
                if self._complained != str(error):
                    self._complained = str(error)
                    log.warning("devices are not written down", file=str(self._file), reason=str(error))

    def _carry_out(self, record: bytes, pairs: list[list[_End]]) -> None:
        """Bring file and devices to what the pairs are; for a worker thread."""
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
    """Have the devices of manager's pairs go with the last fd again, as no file tells of them from now on."""
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
        log.warning("devices may stay behind when this daemon ends", file=str(file), reason=str(error))


def _end(link: Link) -> _End:
    state = link.state
    spot = Spot(
        name=state.name, netns="", ifindex=state.ifindex, address=state.address, vnet_hdr_len=link.tap.vnet_hdr_len
    )
    return _End(link.kept[0], link.tap, link.place.netns_inode, spot)
