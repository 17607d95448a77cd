"""Declared pairs: make the config's pairs and the saved pairs, and keep them as declared.

A pair that cannot be made waits, for example because its namespace is absent. It is retried whenever the mount table
changes, as it does on `ip netns add`. It is also retried at intervals, for namespaces that are paths or PIDs; the
intervals double up to RETRY_MAX_S.
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
from vethd.memory.former import attachment_of
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
    """Keeps a manager's declared pairs as declared. Call start(), and close() before the manager's close()."""

    def __init__(self, manager: Manager, store: Store | None) -> None:
        """Manage the declared pairs of manager; without a store no pair can be saved."""
        self._manager = manager
        self._store = store
        self._wake = asyncio.Event()
        self._interval_s = RETRY_S
        self._mounts = MountWatch(asyncio.get_running_loop(), self._try_soon)
        # the namespace of such a pair may be back already
        manager.waits = self._try_soon
        manager.spawn(self._keep_trying())

    async def start(self, config: Sequence[PairSpec]) -> None:
        """Make the missing pairs, first the config's and then the saved ones. A pair that cannot be made waits.

        Logs a state file that cannot be read. Logs the result, and stores it as the manager's reconciled.
        """
        adopted = set(self._manager.entries)
        stored: list[PairSpec] = []
        if self._store is not None:
            try:
                stored = await self._manager.workers.chore(self._store.load)
            except ConfigError as error:
                aside = await self._manager.workers.chore(self._store.set_aside)
                log.warning("saved pairs cannot be read", reason=str(error), kept_as=str(aside) if aside else "")
        # a former release also saved attachments
        saved = [spec for spec in stored if attachment_of(spec.alias) is None]
        done = await self.reconcile(config)
        for info in match(self._infos(), saved, canonical_netns):
            if info is not None and info.source == "runtime":  # killed after it wrote the file, before the record
                self._manager.entries[info.id].source = "saved"
                self._manager.remember(self._manager.entries[info.id])
        creates = plan(self._infos(), saved, prune=False).creates
        for spec in creates:
            await self._manager.attempt(self._manager.declare(spec, "saved", None))
        if len(creates) < len(stored):
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
        """Make the config's pairs match config; leave alone every pair and attribute that does not differ.

        Returns the numbers of pairs that were created, changed and deleted, and of declared pairs that wait.
        """
        entries = self._manager.entries
        # a reload does not delete a pair that was made at run time, but the config may take it over
        canonical = await self._manager.workers.chore(self._canonical, config)
        await self._manager.catch_up()
        todo = plan(self._infos(), config, prune=True, keep=("runtime", "saved"), canonical=canonical)
        for pair_id in todo.deletes:
            if pair_id in entries:
                await self._manager.dellink(entries[pair_id])
        changed = 0
        for pair_id, change in todo.changes:
            entry = entries.get(pair_id)
            if entry is None:  # deleted meanwhile
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
        """Save the pairs that are not in the config, in their present state, for the next start.

        Two kinds are left out. Pairs of other users: their rights are checked at each request, and their namespaces
        have no names. Attachments of containers: the container runtime makes them again.

        Saves all pairs, or leaves the set of saved pairs as it was. Raises VethError EOPNOTSUPP, and as Store.save()
        does.
        """
        store = self._need_store()
        await self._manager.catch_up()
        entries = [
            entry
            for entry in self._manager.entries.values()
            if entry.source != "config" and entry.live is not None and not entry.owner and entry.attachment is None
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
        # a successor would remove pairs from the file that the record lists as run-time pairs
        self._manager.remember(*entries)
        return saved

    async def forget(self, entry: Entry) -> None:
        """Remove a deleted pair from the state file, if it was a saved pair."""
        if entry.source == "saved":
            await self._rewrite()

    def close(self) -> None:
        """Stop watching the mount table; the retries end when the manager closes."""
        self._mounts.close()

    def _canonical(self, config: Sequence[PairSpec]) -> Callable[[str | None], str]:
        """Return a function that spells a namespace as LinkInfo does; looks the names up, so for a worker thread."""
        own = self._manager.workers.nursery.own_inode
        known: dict[str | None, str] = {}
        for ref in {end.netns for spec in config for end in (spec.near_end(), spec.far_end()) if end.netns}:
            with suppress(VethError):
                fd = open_ref(ref, INHERITED)
                known[ref] = label(inode(fd), own)
                os.close(fd)
        return lambda ref: known[ref] if ref in known else canonical_netns(ref)

    def _adopt(self, config: Sequence[PairSpec], canonical: Callable[[str | None], str]) -> bool:
        """Mark the pairs that match config as the config's, with its specs; return whether one was a saved pair."""
        saved = False
        for spec, info in zip(config, match(self._infos(), config, canonical), strict=True):
            if info is not None:
                entry = self._manager.entries[info.id]
                saved = saved or entry.source == "saved"
                entry.source, entry.spec, entry.fds = "config", spec, INHERITED
        return saved

    async def _rewrite(self) -> None:
        """Write the state file again, after a saved pair was deleted or became the config's."""
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
        """Describe the pairs that may match the config or the state file: those without an owner."""
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
                async with asyncio.timeout(self._interval_s):  # Python 3.11's wait_for() may lose a cancellation
                    await self._wake.wait()
            self._wake.clear()
            waiting = self._waiting()
            self._interval_s = min(self._interval_s * 2, RETRY_MAX_S) if waiting else RETRY_S
            for entry in waiting:
                await self._manager.attempt(entry)


def _as_is(manager: Manager, entry: Entry) -> PairSpec:
    """Return the spec of a living pair with its ends' present names, namespaces and states."""
    links = manager.info(entry).links

    def now(spec: LinkSpec, side: Side) -> dict[str, object]:
        live = links[side]
        asked = entry.live.links[side].txqueuelen if entry.live is not None else spec.txqueuelen
        if live.netns.startswith("net:["):
            reason = f"{live.name} is in a namespace that `ip netns` does not list, so it could not be found again"
            raise VethError(errno.EOPNOTSUPP, "save", live.name, reason)
        return spec.attributes() | {
            "name": live.name,
            "netns": live.netns or None,
            "address": live.address,
            "mtu": live.mtu,
            "txqueuelen": asked,
            "up": live.up,
        }

    near, far = now(entry.spec.near_end(), Side.NEAR), now(entry.spec.far_end(), Side.FAR)
    return msgspec.convert(near | entry.spec.own() | {"peer": far}, PairSpec)
