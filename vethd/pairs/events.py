"""Send events to listeners, without waiting for any of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator

from vethd.model.api import EventName, PairEvent

BACKLOG = 1024  # events that wait for a slow listener; beyond that the oldest are dropped


class Listener:
    """One listener's backlog, filled on the loop and emptied by iteration."""

    def __init__(self, hub: EventHub) -> None:
        """Listen from now on; see EventHub.listen()."""
        self._hub = hub
        self._backlog: deque[PairEvent] = deque()
        self._ready = asyncio.Event()
        self._lost = 0

    def put(self, event: PairEvent) -> None:
        """Add an event; if the backlog is full, drop the oldest, and report the loss by an overflow event."""
        if len(self._backlog) >= BACKLOG:
            self._backlog.popleft()
            self._lost += 1
        self._backlog.append(event)
        self._ready.set()

    def close(self) -> None:
        """Stop listening. A second call does nothing."""
        self._hub.forget(self)

    async def __aiter__(self) -> AsyncIterator[PairEvent]:
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._backlog:
                if self._lost:
                    lost, self._lost = self._lost, 0
                    seq = self._backlog[0].seq - 1
                    yield PairEvent(seq=seq, time=time.time(), event="overflow", detail=f"{lost} events dropped")
                yield self._backlog.popleft()


class EventHub:
    """Sends every event to every listener."""

    def __init__(self) -> None:
        """Start the count at 1."""
        self._listeners: set[Listener] = set()
        self._seq = 0

    def listen(self) -> Listener:
        """Return a new listener; the caller closes it."""
        listener = Listener(self)
        self._listeners.add(listener)
        return listener

    def forget(self, listener: Listener) -> None:
        """Remove a listener."""
        self._listeners.discard(listener)

    def tell(self, event: EventName, *, pair: str = "", link: str = "", netns: str = "", detail: str = "") -> None:
        """Send an event to all listeners. Never blocks, never raises."""
        self._seq += 1
        news = PairEvent(seq=self._seq, time=time.time(), event=event, pair=pair, link=link, netns=netns, detail=detail)
        for listener in self._listeners:
            listener.put(news)
