"""Let a namespace die although vethd attached to a device inside it (memory/regain.py): such an fd pins the namespace.

Theory of operation. The kernel returns for any fd the namespace in which /dev/net/tun was opened, so pins need no
state, and a successor by --replace finds the same pins. All other devices were made in the staging namespace or in our
own. When `ip netns` no longer has a name for a pinned namespace, the pair is deleted, as if the namespace had died. The
namespace then dies.

Differs: on veth a process inside keeps the namespace, and the pair, alive after the name is removed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple

from vethd.kernel import netns
from vethd.kernel.mounts import MountWatch
from vethd.kernel.tun import Tap
from vethd.model.errors import VethError
from vethd.pairs.manager import Manager
from vethd.pairs.pair import LivePair


class _Pin(NamedTuple):
    """An end whose fd pins the namespace of that inode."""

    pair: LivePair
    tap: Tap
    inode: int


class Pins:
    """The pinned namespaces of a manager's pairs. Call start() after adoption, and close() before the manager's."""

    def __init__(self, manager: Manager) -> None:
        """Begin without pins; start() finds them."""
        self._manager = manager
        self._pins: list[_Pin] = []
        self._mounts: MountWatch | None = None
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Find the pins, and watch the mount table if there are any."""
        living = [entry.live for entry in self._manager.entries.values() if entry.live is not None]
        self._pins = await self._manager.workers.chore(_find, living, self._manager.workers.nursery.own_inode)
        if self._pins:
            self._mounts = MountWatch(asyncio.get_running_loop(), self._changed.set)
            self._changed.set()
            self._manager.spawn(self._watch())

    def close(self) -> None:
        """Stop watching."""
        if self._mounts is not None:
            self._mounts.close()

    async def _watch(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._pins = [pin for pin in self._pins if pin.tap.fds]
            for pin in await self._manager.workers.insist(_nameless, self._pins) or []:
                self._manager.ended(pin.pair, "the name of its namespace is gone")


def _find(pairs: list[LivePair], own_inode: int) -> list[_Pin]:
    """Return the pins; for a worker thread."""
    found = []
    for pair in pairs:
        for link in pair.links:
            with suppress(VethError):
                inode = link.tap.pinned_inode()
                if inode == link.tap.netns_inode() != own_inode:
                    found.append(_Pin(pair, link.tap, inode))
    return found


def _nameless(pins: list[_Pin]) -> list[_Pin]:
    """Return the pins whose device is still in its namespace and whose namespace has no name; for a worker thread."""
    names = netns.names()
    found = []
    for pin in pins:
        with suppress(VethError):
            if pin.inode not in names and pin.tap.netns_inode() == pin.inode:
                found.append(pin)
    return found
