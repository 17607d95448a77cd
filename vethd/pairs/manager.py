"""The manager: turns specs into living pairs, follows them, and keeps what is declared true.

Theory of operation. An Entry is a pair that somebody asked for; it is alive, or it waits (declared, but not possible
now: its namespace is absent, its name is taken). Creation, change and deletion of an entry happen under its lock;
what the kernel and the engine report is carried out at once, whatever is going on. A pair that was declared and lost
its namespace waits for it; one whose device somebody deleted is held back until the next reload, or `ip link del`
would mean nothing. A pair made at run time is gone when an end is gone, as on veth.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import structlog

from vethd.datapath.engines import Picked
from vethd.memory.keeper import Memory
from vethd.model.api import AttachmentKey, EngineChange, LinkInfo, LinkStats, PairChange, PairInfo, Reconciled, Source
from vethd.model.errors import VethError
from vethd.model.spec import RING, LinkSpec, PairSpec, validate_pair
from vethd.model.state import Side
from vethd.pairs import changes
from vethd.pairs.adoption import adopt_pairs, engine_record, entry_record
from vethd.pairs.describe import link_info, link_stats, pair_info
from vethd.pairs.entry import Entry, find_link, merged, still_there
from vethd.pairs.events import EventHub
from vethd.pairs.newsdesk import NewsDesk
from vethd.pairs.pair import LivePair
from vethd.pairs.tuning import Tuning
from vethd.pairs.workers import Workers

log = structlog.get_logger()

CLOSE_S = 5.0  # for changes that are under way when the manager closes; systemd kills after 15 (TimeoutStopSec)


class Manager:
    """All pairs of one daemon, or of one program. Use on one loop; close() at the end."""

    def __init__(self, picked: Picked, memory: Memory | None = None, *, gro: bool = True, ring: int = RING) -> None:
        """Make the staging namespace and begin to listen. Raises VethError (EPERM without the capabilities).

        With a memory the pairs outlive this manager; engine and memory are the manager's to close. gro and
        ring are for pairs that do not say.
        """
        self.tuning = Tuning(picked, gro=gro, ring=ring)
        self.memory = memory
        self.reconciled: Reconciled | None = None  # what the start came to: see Declared.start()
        self.hub = EventHub()
        self.entries: dict[str, Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_id = 0
        self.waits: Callable[[], None] = lambda: None  # called when a declared pair begins to wait
        with ExitStack() as undo:
            undo.callback(picked.engine.close)
            self.workers = Workers()
            undo.callback(self.workers.close)
            self.desk = NewsDesk(self.workers, self.spawn)
            undo.pop_all()

    # --- what is asked of it

    async def newlink(
        self,
        spec: PairSpec,
        *,
        source: Source = "runtime",
        fds: Sequence[int] | None = None,
        owner: int = 0,
        attachment: AttachmentKey | None = None,
    ) -> Entry:
        """Make a pair as rtnl_newlink() does: the peer first, all or nothing, `up` refused on the peer.

        fds is what "fd:N" refers to; they stay the caller's. owner and attachment are as Entry has them.
        Raises VethError with veth's errno.
        """
        validate_pair(spec)
        entry = Entry(self._new_id(), spec, source, fds, reason="being made", owner=owner, attachment=attachment)
        self.entries[entry.id] = entry
        try:
            async with entry.lock:
                await self._make(entry)
        except BaseException:
            self.entries.pop(entry.id, None)
            raise
        return entry

    async def dellink(self, entry: Entry) -> None:
        """Delete both ends. A pair that is gone already is no error."""
        if self.entries.pop(entry.id, None) is None:
            return
        async with entry.lock:
            await self._end(entry)
        self.hub.tell("pair_deleted", pair=entry.id)

    async def changelink(self, entry: Entry, change: PairChange, fds: Sequence[int] | None = None) -> None:
        """Change what is said, all of it or nothing. Raises VethError; ENODEV on a pair that waits."""
        names = [link.state.name for link in entry.live.links] if entry.live else ["", ""]
        near = LinkSpec(**change.attributes())
        asked = [(Side.NEAR, near), (Side.FAR, change.peer or LinkSpec())]
        said = [(side, link) for side, link in asked if link != LinkSpec()]
        for side, link in said:
            changes.check(link, names[side])
        async with entry.lock:
            if entry.live is None:
                raise VethError(errno.ENODEV, "changelink", reason=entry.reason or "the pair waits")
            if said:
                with entry.live.rings.asked(said):
                    await self.workers.chore(changes.apply, self.workers.nursery, entry.live.links, said, fds)
                await entry.live.arrived()
                await self.workers.carriers_set()  # who sends as soon as he is answered loses nothing
            for side, link in said:
                if link.master is not None:
                    await entry.live.learn_master(side)
            entry.spec = merged(entry, change, self.info(entry).links)
            entry.live.tune(entry.spec)
            self.remember(entry)
        self.hub.tell("pair_changed", pair=entry.id)

    async def catch_up(self) -> None:
        """Know all that was done to any link before now: hear what the kernel has said, and find those that moved."""
        self.desk.catch_up()
        for pair in [entry.live for entry in self.entries.values() if entry.live is not None]:
            await pair.arrived()

    def change_engine(self, change: EngineChange) -> None:
        """Change what holds for all pairs, all of it or nothing. Raises VethError EOPNOTSUPP."""
        before = [(entry, self.tuning.of(entry.spec)) for entry in self.entries.values()]
        changed = self.tuning.change(change)
        if not changed:
            return
        for entry, was in before:  # a wire that stays as it is need not wait for its worker
            if entry.live is not None and self.tuning.of(entry.spec) != was:
                entry.live.tune(entry.spec)
        self.hub.tell("engine_changed", detail=", ".join(changed))

    def find(self, name: str, label: str | None = None, owner: int = 0) -> tuple[Entry, Side]:
        """Find a living link: see find_link()."""
        return find_link(self.entries.values(), name, label, owner)

    def info(self, entry: Entry) -> PairInfo:
        """Describe a pair."""
        return pair_info(entry, self.tuning)

    def links(self) -> list[LinkInfo]:
        """Describe every living link."""
        return [link_info(entry.live, side) for entry in self.entries.values() if entry.live for side in Side]

    async def stats(self, wanted: Sequence[tuple[Entry, Side]] | None = None) -> list[LinkStats]:
        """Count, for those links or for all that live; the kernel's counters are read anew."""
        if wanted is None:
            wanted = [(entry, side) for entry in self.entries.values() for side in Side]
        pairs = [(entry.live, side) for entry, side in wanted if entry.live is not None]
        survey = await self.workers.chore(self.workers.nursery.survey, [pair.links[side].tap for pair, side in pairs])
        return [link_stats(pair, side, survey) for pair, side in pairs if pair.wire is not None]

    async def close(self) -> None:
        """Stop forwarding and let go of every device. Nothing is deleted that somebody else holds, too."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for entry in list(self.entries.values()):
                    async with entry.lock:  # what is under way is finished, and written down for a successor
                        pass
        self.desk.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        pairs = [entry.live for entry in self.entries.values() if entry.live is not None]
        for pair in pairs:
            pair.end()
        if self.memory is not None:
            self.remember()
            self.memory.close()
        for entry in self.entries.values():
            entry.live = None
        await self.workers.let_go(link for pair in pairs for link in pair.links)
        self.entries.clear()
        self.tuning.engine.close()
        await asyncio.get_running_loop().run_in_executor(None, self.workers.close)

    # --- what declared pairs need (see declared.py)

    async def adopt(self) -> int:
        """Take over the pairs that a predecessor left in the memory; see adoption.py. Gives how many."""
        if self.memory is None:
            return 0
        self._last_id = await adopt_pairs(self, self.memory)
        self.remember()
        return len(self.entries)

    def declare(self, spec: PairSpec, source: Source, fds: Sequence[int] | None) -> Entry:
        """Take a pair on the list, waiting; attempt() makes it."""
        entry = Entry(self._new_id(), spec, source, fds, reason="not made yet")
        self.entries[entry.id] = entry
        return entry

    async def attempt(self, entry: Entry) -> None:
        """Try to make a waiting pair, `up` on both ends included. Failure is its reason to wait on."""
        async with entry.lock:
            if entry.live is not None or entry.held or entry.id not in self.entries:
                return
            far = entry.spec.peer
            try:
                await self._make(entry, up_peer=bool(far and far.up))
            except VethError as error:
                if entry.reason != str(error):
                    entry.reason = str(error)
                    self.hub.tell("pair_waiting", pair=entry.id, detail=entry.reason)
                    log.warning("pair waits", pair=entry.id, name=entry.spec.name, reason=entry.reason)

    # --- Context, for LivePair

    def ended(self, pair: LivePair, reason: str) -> None:
        """See Context."""
        entry = self.entries.get(pair.id)
        if entry is not None and entry.live is pair:
            pair.end()
            self.spawn(self._lost_an_end(entry, pair, reason))

    def changed(self, pair: LivePair) -> None:
        """See Context."""
        entry = self.entries.get(pair.id)
        if entry is not None and entry.live is pair:
            self.remember(entry)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """See Context."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", exc_info=error)

    # --- how it does it

    async def _make(self, entry: Entry, *, up_peer: bool = False) -> None:
        links = await self.workers.make(entry.spec, entry.fds, self.tuning.ring)
        entry.live = LivePair(entry.id, links, self)
        try:
            if self.memory is not None:
                for link in links:
                    link.kept = self.memory.keep(link.tap.fds)
            entry.live.start(entry.spec)
            for side, up in ((Side.NEAR, entry.spec.up), (Side.FAR, up_peer)):
                if up:
                    await self.workers.chore(self.workers.nursery.change, links[side].tap, LinkSpec(up=True))
            self.desk.catch_up()
            await self.workers.carriers_set()
        except BaseException:
            await self._end(entry)
            raise
        entry.reason = ""
        self.remember(entry)
        self.hub.tell("pair_created", pair=entry.id, link=links[0].state.name, netns=links[0].label)

    async def _end(self, entry: Entry) -> None:
        pair, entry.live = entry.live, None
        if pair is not None:
            pair.end()
            if self.memory is not None:
                for link in pair.links:
                    self.memory.forget(link.kept)
                self.memory.remove(entry.id)
            await self.workers.bury(pair.links)

    async def _lost_an_end(self, entry: Entry, pair: LivePair, reason: str) -> None:
        """Bury what is left of a pair, and decide whether it shall come again."""
        async with entry.lock:
            if entry.live is not pair:
                return
            entry.reason = reason
            await self._end(entry)
            if entry.source == "runtime":
                self.entries.pop(entry.id, None)
                self.hub.tell("pair_deleted", pair=entry.id, detail=reason)
                return
            entry.held = await self.workers.chore(still_there, entry, pair)
            entry.reason = f"{reason}; a reload makes it again" if entry.held else f"{reason}, with its namespace"
            self.hub.tell("pair_waiting", pair=entry.id, detail=entry.reason)
            if not entry.held:
                self.waits()

    def remember(self, *entries: Entry) -> None:
        """Write these pairs down, or all, for whoever comes after us."""
        if self.memory is not None:
            told = entries or self.entries.values()
            pairs = [entry_record(entry, entry.live) for entry in told if entry.live]
            self.memory.put(pairs, self._last_id, engine_record(self.tuning))

    def _new_id(self) -> str:
        self._last_id += 1
        return f"p{self._last_id}"
