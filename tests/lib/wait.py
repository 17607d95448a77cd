"""Waiting for conditions, with a deadline: the only way in which a test lets time pass."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE_S = 20.0  # what comes at all comes in milliseconds, on a crowded machine in seconds; passing it is a failure
POLL_S = 0.002  # between two looks at a condition that has no event of its own

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    deadline_s: float = DEADLINE_S,
    what: str = "",
    *,
    wake: int = -1,
    poll_s: float = POLL_S,
) -> T:
    """Call condition until it is true, and return what it gave.

    wake is a file descriptor whose readability is a reason to look again at once (it is not read here). poll_s is
    longer where to look is in the way of what is waited for.
    Raises AssertionError after deadline_s, with what and the last value in its text.
    """
    poller = select.poll()
    if wake >= 0:
        poller.register(wake, select.POLLIN)
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what or condition}; last seen: {value!r}")
        poller.poll(poll_s * 1000)


def readable(fd: int, deadline_s: float = DEADLINE_S) -> bool:
    """Wait until fd can be read; False where it cannot within deadline_s."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(deadline_s * 1000))
