"""When frames may be lost, and how many: what docs/reliability.md declares, as spans of time.

Theory of operation. Whoever is about to do something that costs frames of a pair (takes an end down, moves it, deletes
it) opens a window for the pair's mark first, and closes it once frames flow again both ways. A kill of the daemon is
another thing: it opens a window for all pairs, but no more than BATCH frames of each flow may be lost in it. A restart
opens none: it costs no frame. Every loss that the receivers tell of is judged here, by when the frames were sent.

A frame that is lost in a window may have been sent a little earlier: it was on its way. It may have been for as long as
the daemon was not there to forward it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

BATCH = 64  # frames of a flow that a killed daemon may hold: a batch of asyncio, the buffers of a native worker
UNDER_WAY_NS = 1_000_000_000
KEPT = 4096  # windows that are remembered, beside the open ones; a frame older than that many is none


class FlowEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `load flows` tells of frames that mark's side sent; see tests/lib/load/flows.c."""

    event: str
    mark: int
    side: int
    first: int
    frames: int
    from_ns: int
    to_ns: int


@dataclass(eq=False)
class Window:
    """A span in which frames of a mark, or of all, may be lost; to_ns is None while it is open."""

    why: str
    mark: int | None
    from_ns: int
    to_ns: int | None = None

    def meets(self, from_ns: int, to_ns: int) -> bool:
        """Return whether anything of that span is in the window."""
        return self.from_ns <= to_ns and (self.to_ns is None or from_ns <= self.to_ns)


def _remember(windows: list[Window], window: Window) -> None:
    """Add a window, and forget the oldest closed one if there are too many."""
    windows.append(window)
    if len(windows) > KEPT:
        oldest = next((place for place, one in enumerate(windows) if one.to_ns is not None), None)
        if oldest is not None:
            del windows[oldest]


@dataclass(eq=False)
class Windows:
    """All windows of one run; for several threads."""

    costs: Counter[str] = field(default_factory=Counter)  # frames lost, by why
    _pairs: list[Window] = field(default_factory=list)
    _kills: list[Window] = field(default_factory=list)
    _away: list[Window] = field(default_factory=list)
    _spent: Counter[tuple[Window, int, int]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def open(self, mark: int, why: str) -> Iterator[None]:
        """Declare that a pair may lose frames until its traffic has come back, which is the caller's to await."""
        with self._lock:
            window = Window(why, mark, self._under_way())
            _remember(self._pairs, window)
        try:
            yield
        finally:
            window.to_ns = time.monotonic_ns()

    @contextmanager
    def away(self, why: str) -> Iterator[None]:
        """Declare that the daemon is not there for a while; frames wait."""
        with self._lock:
            window = Window(why, None, time.monotonic_ns())
            _remember(self._away, window)
        try:
            yield
        finally:
            window.to_ns = time.monotonic_ns()

    @contextmanager
    def kill(self) -> Iterator[None]:
        """Declare a kill; leave the context when the process is dead."""
        with self._lock:
            window = Window("killed", None, self._under_way())
            _remember(self._kills, window)
        try:
            yield
        finally:
            window.to_ns = time.monotonic_ns()

    def is_away(self, since_ns: int) -> bool:
        """Return whether the daemon was away at any time since then."""
        with self._lock:
            return any(window.meets(since_ns, time.monotonic_ns()) for window in self._away)

    def killed(self, since_ns: int) -> bool:
        """Return whether the daemon was killed at any time since then."""
        with self._lock:
            return any(window.meets(since_ns, time.monotonic_ns()) for window in self._kills)

    def touched(self, mark: int, since_ns: int) -> bool:
        """Return whether a window of that pair was open at any time since then."""
        with self._lock:
            return any(window.mark == mark and window.meets(since_ns, time.monotonic_ns()) for window in self._pairs)

    def judge(self, event: FlowEvent) -> str:
        """Say what is wrong with an event, "" where it is declared. Raises nothing."""
        words = (
            f"{event.event}: {event.frames} frames from number {event.first} of pair {event.mark} side {event.side}, "
            f"sent {event.from_ns} to {event.to_ns} ns"
        )
        if event.event not in ("lost", "late"):
            return words
        with self._lock:
            window = self._covering(event)
            if window is not None:
                self.costs[window.why] += event.frames if event.event == "lost" else 0
                return ""
            if event.event == "late":
                return words
            return "" if self._spend(event) else words

    def _spend(self, event: FlowEvent) -> bool:
        """Take the frames from what the kills around them may cost; return whether that was enough."""
        key = event.mark, event.side
        span = sorted((event.from_ns, event.to_ns))
        kills = [kill for kill in self._kills if kill.meets(*span) and self._spent[kill, *key] < BATCH]
        if event.frames > sum(BATCH - self._spent[kill, *key] for kill in kills):
            return False
        left = event.frames
        for kill in kills:  # daemons that were killed one soon after the other leave one gap
            part = min(left, BATCH - self._spent[kill, *key])
            self._spent[kill, *key] += part
            left -= part
        self.costs["killed"] += event.frames
        return True

    def _covering(self, event: FlowEvent) -> Window | None:
        """Return the first of the pair's windows that hold all of the span in which frames were lost."""
        first: Window | None = None
        # of a single frame it is not known when exactly it was sent: anywhere in between will do
        at, end = event.from_ns, max(event.to_ns, event.from_ns)
        earliest = min(event.to_ns, event.from_ns)
        for window in self._pairs:  # in the order in which they were opened
            if window.mark == event.mark and window.meets(earliest if first is None else at, at):
                first = first or window
                if window.to_ns is None or window.to_ns >= end or event.to_ns <= event.from_ns:
                    return first
                at = max(at, window.to_ns)
        return None

    def _under_way(self) -> int:
        """Since when frames may have been under way that are not there yet."""
        now = time.monotonic_ns()
        away = [window.from_ns for window in self._away if window.meets(now - UNDER_WAY_NS, now)]
        return min([now, *away]) - UNDER_WAY_NS
