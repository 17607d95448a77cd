"""Deliver each rtnetlink message to the pair that owns the link, and read all links again after an overflow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from vethd.kernel.linkstate import LinkState
from vethd.kernel.watcher import LinkKey, Watcher
from vethd.model.state import Side
from vethd.pairs.describe import account_drops
from vethd.pairs.pair import LivePair
from vethd.pairs.workers import Workers

log = structlog.get_logger()


class NewsDesk:
    """Maps links to their pairs. Use on the loop; call close() at the end."""

    def __init__(self, workers: Workers, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """Start to listen; spawn runs a task and keeps a reference to it. Raises VethError."""
        self._workers = workers
        self._spawn = spawn
        self._index: dict[LinkKey, tuple[LivePair, Side]] = {}
        self._watcher = Watcher(self._index.__contains__, self._news, self._lost)
        self._watcher.start(asyncio.get_running_loop())

    def placed(self, key: LinkKey, pair: LivePair, side: Side) -> None:
        """Deliver messages about that link to pair from now on, but not those that the kernel has sent before.

        If another end is still registered there, it has moved and the message about that is lost: it is told here.
        """
        self._watcher.catch_up()
        other = self._index.get(key)
        self._index[key] = (pair, side)
        if other is not None and other != (pair, side):
            moved, end = other
            moved.news(end, moved.links[end].state._replace(deleted=True, new_nsid=key[0]))

    def left(self, key: LinkKey, pair: LivePair, side: Side) -> None:
        """Stop delivering messages about that link, if they went to pair's end at side."""
        if self._index.get(key) == (pair, side):
            del self._index[key]

    def catch_up(self) -> None:
        """Deliver every message that the kernel has queued until now."""
        self._watcher.catch_up()

    def close(self) -> None:
        """Stop listening."""
        self._watcher.close()

    def _news(self, key: LinkKey, state: LinkState) -> None:
        pair, side = self._index[key]
        had_carrier = pair.carrier
        pair.news(side, state)
        if pair.carrier != had_carrier and any(link.filter is None for link in pair.links):
            self._spawn(self._sample(pair))

    async def _sample(self, pair: LivePair) -> None:
        """Account the drops of the carrier epoch that ends; needed only if an end has no tun filter."""
        survey = await self._workers.chore(self._workers.nursery.survey, [link.tap for link in pair.links])
        for side in Side:
            account_drops(pair, side, survey.get(pair.links[side].place.key, pair.links[side].state))

    def _lost(self) -> None:
        """Read all links again: rtnetlink's buffer overflowed and messages are lost."""
        log.warning("rtnetlink buffer overflowed, reading all links again")
        self._spawn(self._resync())

    async def _resync(self) -> None:
        heard = {key: pair.links[side].news for key, (pair, side) in self._index.items()}
        taps = [pair.links[side].tap for pair, side in self._index.values()]
        survey = await self._workers.chore(self._workers.nursery.survey, taps)
        self._watcher.catch_up()  # messages older than the survey would take a link back to an older state
        for key, news in heard.items():
            if key not in self._index:
                continue
            pair, side = self._index[key]
            if key in survey and pair.links[side].news == news:
                self._news(key, survey[key])
            elif key not in survey:  # moved meanwhile, or dead, which the engine reports
                place = await self._workers.insist(self._workers.nursery.locate, pair.links[side].tap)
                if place is None or self._index.get(key) != (pair, side):
                    continue
                if place.key != key:
                    self._news(key, pair.links[side].state._replace(deleted=True, new_nsid=place.key[0]))
                elif pair.links[side].news == news:  # the survey could not read it
                    self._news(key, place.state)
