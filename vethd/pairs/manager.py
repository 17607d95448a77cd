"""The manager: make pairs from specs, follow their devices, and make declared pairs again when they can be made.

Theory of operation. An Entry is a requested pair. It is alive, or it waits: it is declared but cannot be made now, for
example because its namespace is absent or its name is taken. Creation, change and deletion of an entry happen under its
lock. Events from the kernel and the engine are handled at once, even while the lock is held. A declared pair that lost
its namespace waits for it. A declared pair whose device a user deleted is held back until the next reload; otherwise
`ip link del` would have no effect. A pair made at run time is removed when one of its ends is gone, as on veth.
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

CLOSE_S = 5.0  # for changes in progress when the manager closes; systemd kills after 15 (TimeoutStopSec)


class Manager:
    """All pairs of one daemon or one program. Use on one loop; call close() at the end."""

    def __init__(self, picked: Picked, memory: Memory | None = None, *, gro: bool = True, ring: int = RING) -> None:
        """Make the staging namespace and start to listen to rtnetlink. Raises VethError (EPERM without capabilities).

        With a memory the pairs outlive this manager. The manager closes the engine and the memory. gro and ring are the
        defaults for pairs that do not set them.
        """
        self.tuning = Tuning(picked, gro=gro, ring=ring)
        self.memory = memory
        self.reconciled: Reconciled | None = None  # the result of the start: see Declared.start()
        self.hub = EventHub()
        self.entries: dict[str, Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_id = 0
        self.waits: Callable[[], None] = lambda: None  # called when a declared pair starts to wait for its namespace
        with ExitStack() as undo:
            undo.callback(picked.engine.close)
            self.workers = Workers()
            undo.callback(self.workers.close)
            self.desk = NewsDesk(self.workers, self.spawn)
            undo.pop_all()

    # --- requests

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

        "fd:N" refers to fds, which stay the caller's. owner and attachment are those of Entry.
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
        """Delete both ends; does nothing if the pair is gone, or if cancelled during another change of the pair."""
        async with entry.lock:
            if self.entries.pop(entry.id, None) is None:
                return
            await self._end(entry)
            self.hub.tell("pair_deleted", pair=entry.id)

    async def changelink(self, entry: Entry, change: PairChange, fds: Sequence[int] | None = None) -> None:
        """Apply every attribute that change sets, or none. Raises VethError; ENODEV on a pair that waits."""
        names = [link.state.name for link in entry.live.links] if entry.live else ["", ""]
        near = LinkSpec(**change.attributes())
        asked = [(Side.NEAR, near), (Side.FAR, change.peer or LinkSpec())]
        said = [(side, link) for side, link in asked if link != LinkSpec()]
        for side, link in said:
            changes.check(link, names[side])
        changes.check_own(change, names[Side.NEAR])
        async with entry.lock:
            if entry.live is None:
                raise VethError(errno.ENODEV, "changelink", reason=entry.reason or "the pair waits")
            if said:
                with entry.live.rings.asked(said):
                    await self.workers.chore(changes.apply, self.workers.nursery, entry.live.links, said, fds)
                await entry.live.arrived()
                await self.workers.carriers_set()  # a client that sends right after the reply loses no frame
            for side, _ in said:
                await entry.live.look_again(side)
            entry.spec = merged(entry, change, self.info(entry).links)
            entry.live.tune(entry.spec)
            self.remember(entry)
        self.hub.tell("pair_changed", pair=entry.id)

    async def catch_up(self) -> None:
        """Process every pending rtnetlink message, and wait until every link that moved is found."""
        self.desk.catch_up()
        for pair in [entry.live for entry in self.entries.values() if entry.live is not None]:
            await pair.arrived()

    def change_engine(self, change: EngineChange) -> None:
        """Apply every setting of the engine and of all pairs in change, or none. Raises VethError EOPNOTSUPP."""
        before = [(entry, self.tuning.of(entry.spec)) for entry in self.entries.values()]
        changed = self.tuning.change(change)
        if not changed:
            return
        for entry, was in before:  # tuning waits for the wire's worker, so leave out wires without a change
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
        """Return the counters of the wanted links, or of all living links; reads the kernel's counters again."""
        if wanted is None:
            wanted = [(entry, side) for entry in self.entries.values() for side in Side]
        pairs = [(entry.live, side) for entry, side in wanted if entry.live is not None]
        survey = await self.workers.chore(self.workers.nursery.survey, [pair.links[side].tap for pair, side in pairs])
        return [link_stats(pair, side, survey) for pair, side in pairs if pair.wire is not None]

    async def close(self) -> None:
        """Stop forwarding and close every fd. A device whose fds another process also holds stays."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for entry in list(self.entries.values()):
                    async with entry.lock:  # waits for a change in progress, so that the record includes it
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

    # --- for declared pairs (see declared.py)

    async def adopt(self) -> int:
        """Take over the pairs that a predecessor left in the memory; see adoption.py. Returns their number."""
        if self.memory is None:
            return 0
        self._last_id = await adopt_pairs(self, self.memory)
        self.remember()
        return len(self.entries)

    def declare(self, spec: PairSpec, source: Source, fds: Sequence[int] | None) -> Entry:
        """Add an entry for a pair, waiting; attempt() makes the pair."""
        entry = Entry(self._new_id(), spec, source, fds, reason="not made yet")
        self.entries[entry.id] = entry
        return entry

    async def attempt(self, entry: Entry) -> None:
        """Try to make a waiting pair, and apply `up` on both ends. On failure it goes on waiting, with the reason."""
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

    # --- internals

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
        """Delete the rest of a pair, and decide whether it will be made again."""
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
            entry.reason = f"{reason}; a reload makes it again" if entry.held else f"{reason}, and so is its namespace"
            self.hub.tell("pair_waiting", pair=entry.id, detail=entry.reason)
            if not entry.held:
                self.waits()

    def remember(self, *entries: Entry) -> None:
        """Record the given pairs, or all, for a successor."""
        if self.memory is not None:
            told = entries or self.entries.values()
            pairs = [entry_record(entry, entry.live) for entry in told if entry.live]
            self.memory.put(pairs, self._last_id, engine_record(self.tuning))

    def _new_id(self) -> str:
        self._last_id += 1
        return f"p{self._last_id}"
