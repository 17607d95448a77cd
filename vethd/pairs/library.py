"""open_pair(): a pair in the process of any asyncio program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from vethd.datapath.engines import Asked, pick_engine
from vethd.kernel.netns import INHERITED
from vethd.model.api import MODERATION_US, SPIN_US, EngineInfo, LinkInfo, LinkStats, PairChange
from vethd.model.spec import LinkSpec, PairSpec
from vethd.model.state import Side
from vethd.pairs.entry import Entry
from vethd.pairs.manager import Manager


class OpenPair:
    """A living pair in this process. near and far describe the present state of its ends."""

    def __init__(self, manager: Manager, entry: Entry) -> None:
        """Wrap the entry that open_pair() made."""
        self._manager = manager
        self._entry = entry

    @property
    def near(self) -> LinkInfo:
        """The near end. Raises LookupError once the pair is gone."""
        return self._end(Side.NEAR)

    @property
    def far(self) -> LinkInfo:
        """The peer. Raises LookupError once the pair is gone."""
        return self._end(Side.FAR)

    @property
    def engine(self) -> EngineInfo:
        """The engine that forwards the frames, and its settings."""
        return self._manager.tuning.info()

    async def stats(self) -> tuple[LinkStats, LinkStats]:
        """Read the counters: (near, far). Raises LookupError once the pair is gone."""
        ends = [(self._entry, side) for side in Side]
        counted = await self._manager.stats(ends) if self._entry.live is not None else []
        if len(counted) != len(ends):
            raise LookupError("the pair is gone")
        return counted[Side.NEAR], counted[Side.FAR]

    async def change(self, change: PairChange) -> None:
        """Apply every attribute that change sets, or none. Raises VethError."""
        await self._manager.changelink(self._entry, change, INHERITED)

    async def wait_gone(self) -> None:
        """Wait until the pair is gone: an end was deleted, and with it the other."""
        listener = self._manager.hub.listen()
        try:
            events = aiter(listener)
            while self._entry.id in self._manager.entries:
                await anext(events)
        finally:
            listener.close()

    def _end(self, side: Side) -> LinkInfo:
        links = self._manager.info(self._entry).links
        if not links:
            raise LookupError("the pair is gone")
        return links[side]


@asynccontextmanager
async def open_pair(
    spec: PairSpec,
    *,
    engine: str = "auto",
    workers: int = 0,
    spin_us: int = SPIN_US,
    moderation_us: int = MODERATION_US,
) -> AsyncIterator[OpenPair]:
    """Make a pair, forward its frames while the body runs, and delete it.

    Unlike newlink, it accepts `up` for both ends. "fd:N" is this process's own fd N. If an end is deleted meanwhile,
    the other is deleted, too; leaving the body is then no error. Needs CAP_NET_ADMIN, CAP_SYS_ADMIN and
    CAP_NET_BROADCAST (those of a user namespace suffice). engine, workers, spin_us and moderation_us are those of
    Asked. Raises VethError with veth's errno, and as pick_engine() does.
    """
    manager = Manager(pick_engine(Asked(engine, workers, spin_us, moderation_us), asyncio.get_running_loop()))
    try:
        peer = spec.far_end()
        quiet = msgspec.structs.replace(spec, peer=msgspec.structs.replace(peer, up=None)) if peer.up else spec
        entry = await manager.newlink(quiet, fds=INHERITED)
        if peer.up:
            await manager.changelink(entry, PairChange(peer=LinkSpec(up=True)))
        yield OpenPair(manager, entry)
    finally:
        await manager.close()
