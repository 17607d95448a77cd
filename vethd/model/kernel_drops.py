"""Which of the kernel's drops is which: a sending TAP's tx_dropped, told apart.

The kernel has one counter for three ends of a frame: refused by the tun filter (oversize), sent without a carrier,
and no room in the queue. With the filter in place two more figures are known, both exact: what it refused and what
it passed on to the queue. What it passed and was never read, once the queue is dry, was dropped by a full queue; the
rest had no carrier. Without the filter (no BPF) time tells: a growth that lies whole within one carrier epoch belongs
to that epoch, and what does not stays unknown. The four always add up to tx_dropped, and none ever goes back: only what
is new is told apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vethd.model.drops import KernelDrop


class DropSample(NamedTuple):
    """What is known at one instant of one sending TAP; frames since its birth.

    oversize and passed are the filter's counts, None where there is no filter. read is the engine's count, dry
    whether it has just found the queue empty. epoch counts the carrier's changes; carrier is its state.
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
    """The ledger of one sending TAP."""

    oversize: int = 0
    no_carrier: int = 0
    queue_full: int = 0
    unknown: int = 0
    _epoch: int = 0

    def account(self, sample: DropSample) -> None:
        """Take a sample into the books."""
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
            # a queue that is busy hides its drops among the waiting; but under a carrier nothing else is new
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
