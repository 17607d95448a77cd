"""Declared pairs: those of the config and those that were saved are kept true, or wait.

A pair whose namespace is absent is tried again whenever the mount table changes (that is how `ip netns add` looks from
here), and now and then besides, for namespaces that are paths or PIDs. The intervals double up to RETRY_MAX_S.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import structlog

from vethd.kernel.mounts import MountWatch
from vethd.kernel.netns import INHERITED, inode, label, open_ref
from vethd.memory.store import Store
from vethd.model.api import PairInfo, Reconciled, Saved
from vethd.model.errors import ConfigError, VethError
from vethd.model.plan import canonical_netns, match, plan
from vethd.model.spec import LinkSpec, PairSpec
from vethd.model.state import Side
from vethd.pairs.entry import Entry
from vethd.pairs.manager import Manager

log = structlog.get_logger()

RETRY_S = 1.0
RETRY_MAX_S = 30.0


class Declared:
    """Keeps the declared pairs of a manager true. start(), and close() before the manager's."""

    def __init__(self, manager: Manager, store: Store | None) -> None:
        """Look after manager's declared pairs; without a store nothing can be saved."""
        self._manager = manager
        self._store = store
        self._wake = asyncio.Event()
        self._interval_s = RETRY_S
        self._mounts = MountWatch(asyncio.get_running_loop(), self._try_soon)
        # its namespace may be back before we knew that it was gone
        manager.waits = self._try_soon
        manager.spawn(self._keep_trying())

    async def start(self, config: Sequence[PairSpec]) -> None:
        """Make the config's pairs, then the saved ones, where they are not there. What cannot be made waits.

        A bad state file is told; what was done, too, in the log and as the manager's reconciled.
        """
        adopted = set(self._manager.entries)
        saved: list[PairSpec] = []
        if self._store is not None:
            try:
                saved = await self._manager.workers.chore(self._store.load)
            except ConfigError as error:
                aside = await self._manager.workers.chore(self._store.set_aside)
                log.warning("saved pairs cannot be read", reason=str(error), kept_as=str(aside) if aside else "")
        done = await self.reconcile(config)
        for info in match(self._infos(), saved, canonical_netns):
            if info is not None and info.source == "runtime":  # killed between the file and the record
                self._manager.entries[info.id].source = "saved"
                self._manager.remember(self._manager.entries[info.id])
        creates = plan(self._infos(), saved, prune=False).creates
        for spec in creates:
            await self._manager.attempt(self._manager.declare(spec, "saved", None))
        if len(creates) < len(saved):
            await self._rewrite()
        memory = self._manager.memory
        self._manager.reconciled = Reconciled(
            adopted=len(adopted),
            lost=memory.lost if memory else 0,
            created=sum(
                entry.live is not None and entry.source != "runtime" and entry.id not in adopted
                for entry in self._manager.entries.values()
            ),
            changed=done["changed"],
            deleted=done["deleted"],
            orphans=memory.orphans if memory else 0,
        )
        log.info("reconciled", **msgspec.structs.asdict(self._manager.reconciled), waiting=len(self._waiting()))

    async def reconcile(self, config: Sequence[PairSpec]) -> dict[str, int]:
        """Bring the config's pairs to what the config says now, and touch nothing that does not differ.

        Gives how many pairs were created, changed and deleted, and how many declared ones wait.
        """
        entries = self._manager.entries
        # a pair made at run time is not the config's to delete, but the config may take it over
        canonical = await self._manager.workers.chore(self._canonical, config)
        await self._manager.catch_up()
        todo = plan(self._infos(), config, prune=True, keep=("runtime", "saved"), canonical=canonical)
        for pair_id in todo.deletes:
            if pair_id in entries:
                await self._manager.dellink(entries[pair_id])
        changed = 0
        for pair_id, change in todo.changes:
            entry = entries.get(pair_id)
            if entry is None:  # gone meanwhile
                continue
            try:
                await self._manager.changelink(entry, change, INHERITED)
                changed += 1
            except VethError as error:
                log.warning("pair not changed", pair=pair_id, reason=str(error))
        if self._adopt(config, canonical):
            await self._rewrite()
        created = [self._manager.declare(spec, "config", INHERITED) for spec in todo.creates]
        for entry in entries.values():
            entry.held = False
        for entry in [entry for entry in entries.values() if entry.live is None]:
            await self._manager.attempt(entry)
        self._manager.remember(*entries.values())
        waiting = len(self._waiting())
        result = {"created": len(created), "changed": changed, "deleted": len(todo.deletes), "waiting": waiting}
        self._manager.hub.tell("reloaded", detail=", ".join(f"{count} {what}" for what, count in result.items()))
        return result

    async def save(self) -> Saved:
        """Write the pairs that the config does not have, as they are now, where the next start finds them.

        Not those of a user: what he may have is decided when he asks for it, and his namespaces have no names.

        All of them, or none is saved that was not before. Raises VethError EOPNOTSUPP, and what writing answers.
        """
        store = self._need_store()
        await self._manager.catch_up()
        entries = [
            e for e in self._manager.entries.values() if e.source != "config" and e.live is not None and not e.owner
        ]
        specs = [_as_is(self._manager, entry) for entry in entries]
        before = [(entry, entry.source, entry.spec) for entry in entries]
        for entry, spec in zip(entries, specs, strict=True):
            entry.source, entry.spec = "saved", spec
        try:
            saved = await self._write(store)
        except VethError:
            for entry, source, spec in before:
                entry.source, entry.spec = source, spec
            raise
        # a successor that finds them recorded as run-time pairs would take them out of the file
        self._manager.remember(*entries)
        return saved

    async def forget(self, entry: Entry) -> None:
        """Take a deleted pair out of the saved ones, if it was one."""
        if entry.source == "saved":
            await self._rewrite()

    def close(self) -> None:
        """Stop watching the mount table; the trying ends with the manager."""
        self._mounts.close()

    def _canonical(self, config: Sequence[PairSpec]) -> Callable[[str | None], str]:
        """Return a function that spells a namespace as LinkInfo does; looks them up, for a worker thread."""
        own = self._manager.workers.nursery.own_inode
        known: dict[str | None, str] = {}
        for ref in {end.netns for spec in config for end in (spec.near_end(), spec.far_end()) if end.netns}:
            with suppress(VethError):
                fd = open_ref(ref, INHERITED)
                known[ref] = label(inode(fd), own)
                os.close(fd)
        return lambda ref: known[ref] if ref in known else canonical_netns(ref)

    def _adopt(self, config: Sequence[PairSpec], canonical: Callable[[str | None], str]) -> bool:
        """Mark as the config's the pairs that it names, and return them its words; return whether one was saved."""
        saved = False
        for spec, info in zip(config, match(self._infos(), config, canonical), strict=True):
            if info is not None:
                entry = self._manager.entries[info.id]
                saved = saved or entry.source == "saved"
                entry.source, entry.spec, entry.fds = "config", spec, INHERITED
        return saved

    async def _rewrite(self) -> None:
        """Write the saved pairs anew, as one of them is none any more: it was deleted, or is the config's now."""
        if self._store is not None:
            try:
                await self._write(self._store)
            except VethError as error:
                log.warning("saved pairs cannot be written", reason=str(error))

    async def _write(self, store: Store) -> Saved:
        specs = [entry.spec for entry in self._manager.entries.values() if entry.source == "saved"]
        await self._manager.workers.chore(store.save, specs)
        return Saved(pairs=len(specs), file=str(store.file))

    def _infos(self) -> list[PairInfo]:
        """Describe the pairs that may be the config's or the saved ones: no user's own."""
        return [self._manager.info(entry) for entry in self._manager.entries.values() if not entry.owner]

    def _need_store(self) -> Store:
        if self._store is None:
            raise VethError(errno.EOPNOTSUPP, "save", reason="this daemon has no state directory")
        return self._store

    def _waiting(self) -> list[Entry]:
        entries = self._manager.entries.values()
        return [entry for entry in entries if entry.live is None and not entry.held and entry.source != "runtime"]

    def _try_soon(self) -> None:
        self._interval_s = RETRY_S
        self._wake.set()

    async def _keep_trying(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):  # wait_for() of Python 3.11 may swallow a cancellation
                    await self._wake.wait()
            self._wake.clear()
            waiting = self._waiting()
            self._interval_s = min(self._interval_s * 2, RETRY_MAX_S) if waiting else RETRY_S
            for entry in waiting:
                await self._manager.attempt(entry)


def _as_is(manager: Manager, entry: Entry) -> PairSpec:
    """Return the spec of a living pair with the names, places and states that its ends have now."""
    links = manager.info(entry).links

    def now(spec: LinkSpec, side: Side) -> dict[str, object]:
        live = links[side]
        if live.netns.startswith("net:["):
            reason = f"{live.name} is in a namespace without a name: only one that `ip netns` knows can be found again"
            raise VethError(errno.EOPNOTSUPP, "save", live.name, reason)
        return spec.attributes() | {
            "name": live.name,
            "netns": live.netns or None,
            "address": live.address,
            "mtu": live.mtu,
            "txqueuelen": live.txqueuelen,
            "up": live.up,
        }

    near, far = now(entry.spec.near_end(), Side.NEAR), now(entry.spec.far_end(), Side.FAR)
    return msgspec.convert(near | entry.spec.own() | {"peer": far}, PairSpec)
