"""Histograms of how long frames were in vethd: their buckets, and what they say. Pure.

A bucket is a quarter of an octave, from 256 ns to 1 s; the first one has all shorter times, the last one all longer
ones. The native engine has the same buckets in _lane.pxd.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST_OCTAVE = 8  # 256 ns
OCTAVES = 22
PARTS = 4
BUCKETS = OCTAVES * PARTS


def bucket(ns: int) -> int:
    """Return the bucket of a time in nanoseconds."""
    octave = max(ns, 1).bit_length() - 1 - FIRST_OCTAVE
    if octave < 0:
        return 0
    if octave >= OCTAVES:
        return BUCKETS - 1
    return octave * PARTS + (ns >> (octave + FIRST_OCTAVE - 2) & PARTS - 1)


def bound(number: int) -> int:
    """Return the smallest time, in nanoseconds, that is too long for a bucket."""
    octave, part = divmod(number, PARTS)
    return (PARTS + part + 1) << (octave + FIRST_OCTAVE - 2)


def quantile(counts: Sequence[int], share: float) -> int | None:
    """Return a time, in nanoseconds, that the given share of the frames did not exceed; None if there are no frames.

    It is the upper bound of a bucket, so it is at most a quarter too long.
    """
    left = sum(counts) * share
    if not left:
        return None
    for number, count in enumerate(counts):
        left -= count
        if left <= 0:
            return bound(number)
    return bound(BUCKETS - 1)


def longest(counts: Sequence[int]) -> int | None:
    """Return the upper bound of the last bucket that has frames, in nanoseconds; None if there are no frames."""
    return next((bound(number) for number in reversed(range(len(counts))) if counts[number]), None)
