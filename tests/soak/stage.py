"""What all who take part share: the log of actions, the gate that stops them for a stocktaking, and how one fails."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

ACTIONS_KEPT = 200
GATE_S = 120.0  # what an action may take, with a restart in its way, on a crowded machine
POLL_S = 0.01

T = TypeVar("T")


class Wrong(AssertionError):  # noqa: N818 - it is what was found, not what failed
    """Something is not as it should be: the run ends."""


class Over(Exception):  # noqa: N818 - as above
    """The run has ended, by its length or by what somebody else found."""


class Stage:
    """For all threads of one run."""

    def __init__(self) -> None:
        """Begin now."""
        self.began = time.monotonic()
        self.actions: deque[str] = deque(maxlen=ACTIONS_KEPT)
        self.counts: Counter[str] = Counter()
        self.over = threading.Event()
        self.wrong: list[str] = []
        self._gate = threading.Condition()
        self._acting = 0
        self._closed = False

    def did(self, kind: str, detail: str = "") -> None:
        """Write down an action as it begins."""
        self.counts[kind] += 1
        self.actions.append(f"{time.monotonic() - self.began:9.3f} {kind} {detail}".rstrip())

    def fail(self, words: str) -> None:
        """End the run; of several failures the first is the one that counts."""
        self.wrong.append(f"after {time.monotonic() - self.began:.3f} s: {words}")
        self.end()

    def end(self) -> None:
        """End the run."""
        self.over.set()
        with self._gate:
            self._gate.notify_all()

    def pause(self, seconds: float) -> None:
        """Let time pass between actions. Raises Over."""
        if self.over.wait(seconds):
            raise Over

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Act; not while the gate is closed. Raises Over."""
        with self._gate:
            while self._closed and not self.over.is_set():
                self._gate.wait()
            if self.over.is_set():
                raise Over
            self._acting += 1
        try:
            yield
        finally:
            with self._gate:
                self._acting -= 1
                self._gate.notify_all()

    @contextmanager
    def standstill(self) -> Iterator[None]:
        """Wait until nobody acts, and let nobody begin. Raises Wrong where somebody does not come to an end."""
        with self._gate:
            self._closed = True
            if not self._gate.wait_for(lambda: self._acting == 0, GATE_S):
                self._closed = False
                raise Wrong(f"{self._acting} actions did not end within {GATE_S} s")
        try:
            yield
        finally:
            with self._gate:
                self._closed = False
                self._gate.notify_all()

    def wait(self, condition: Callable[[], T], what: str, deadline_s: float = GATE_S / 2) -> T:
        """Wait until condition is true and return what it gave. Raises Wrong with what after deadline_s."""
        end = time.monotonic() + deadline_s
        while not (value := condition()):
            if time.monotonic() > end:
                raise Wrong(f"not within {deadline_s:.0f} s: {what}; last seen: {value!r}")
            time.sleep(POLL_S)
        return value
