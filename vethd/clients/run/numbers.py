"""Which number a caller's rtnetlink socket gets."""

from __future__ import annotations

from collections.abc import Collection

from vethd.clients.run.filter import RESERVED

_MARGIN = 128
"""A range is used while the caller's other descriptors end so far below it: its threads may be opening files now."""


def choose(used: Collection[int], limit: int, least: int = 0) -> int | None:
    """Return a free reserved number of at least least; None if the caller must do without.

    used are the numbers of the caller's descriptors, limit is its RLIMIT_NOFILE.
    """
    for first, count in RESERVED:
        numbers = range(first, first + count)
        others = [number for number in used if not any(start <= number < start + many for start, many in RESERVED)]
        crowded = any(number + _MARGIN >= first for number in others) or any(
            number in numbers and number >= first + count for number in used
        )
        if crowded or limit < first + count:
            continue
        free = next((number for number in numbers if number not in used and number >= least), None)
        if free is not None:
            return free
    return None
