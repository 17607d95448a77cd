"""Splits a sending TAP's tx_dropped by reason.

The kernel counts three kinds of drops in tx_dropped: frames refused by the tun filter (oversize), frames sent without
a carrier, and frames for which the queue had no room. The filter adds two exact counts: the frames that it refused
and the frames that it passed to the queue. Once the queue is dry, the frames that were passed but never read are those
that a full queue dropped; all other drops had no carrier. Without the filter (no BPF) only the time of a drop is
known: an increase within one carrier epoch is assigned to that epoch, and any other increase stays unknown. The four
counts always add up to tx_dropped. None of them ever decreases, because only new drops are assigned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vethd.model.drops import KernelDrop


class DropSample(NamedTuple):
    """The counters of one sending TAP at one instant, in frames since the TAP was made.

    oversize and passed are the filter's counts, None if there is no filter. read is the engine's count. dry is whether
    the engine has just found the queue empty. epoch counts the carrier's changes; carrier is its state.
    """

    tx_dropped: int
    oversize: int | None
    passed: int | None
    read: int
    dry: bool
    carrier: bool
    epoch: int


@dataclass
class KernelDrops:
    """The drops of one sending TAP by reason."""

    oversize: int = 0
    no_carrier: int = 0
    queue_full: int = 0
    unknown: int = 0
    _epoch: int = 0

    def account(self, sample: DropSample) -> None:
        """Assign the drops that are new in a sample."""
        if sample.oversize is not None and sample.passed is not None:
            self._by_filter(sample, sample.oversize, sample.passed)
        else:
            self._by_epoch(sample)

    def by_reason(self) -> dict[str, int]:
        """Return the four counts under their stable names."""
        return {
            KernelDrop.OVERSIZE.value: self.oversize,
            KernelDrop.NO_CARRIER.value: self.no_carrier,
            KernelDrop.QUEUE_FULL.value: self.queue_full,
            KernelDrop.UNKNOWN.value: self.unknown,
        }

    def _by_filter(self, sample: DropSample, oversize: int, passed: int) -> None:
        new = max(sample.tx_dropped - sum(self.by_reason().values()), 0)
        # the filter's counts are read after tx_dropped and may be ahead of it
        refused = min(max(oversize - self.oversize, 0), new)
        new -= refused
        full = max(passed - sample.read - self.queue_full, 0)
        if not sample.dry:
            # in a busy queue, waiting frames cannot be told from drops; but with the carrier on, every new drop is
            # the queue's
            full = new if sample.carrier else 0
        full = min(full, new)
        self.oversize += refused
        self.queue_full += full
        self.no_carrier += new - full

    def _by_epoch(self, sample: DropSample) -> None:
        growth = sample.tx_dropped - self.oversize - self.no_carrier - self.queue_full - self.unknown
        if sample.epoch != self._epoch:
            self.unknown += growth
        elif sample.carrier:
            self.queue_full += growth
        else:
            self.no_carrier += growth
        self._epoch = sample.epoch
