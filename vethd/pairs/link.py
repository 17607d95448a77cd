"""One living end: its device, its filter, its namespace and its state."""

from __future__ import annotations

from dataclasses import dataclass, field

from vethd.kernel.births import Place
from vethd.kernel.linkstate import LinkState
from vethd.kernel.tun import Tap
from vethd.kernel.tunfilter import FilterCounts, TunFilter
from vethd.model.kernel_drops import KernelDrops
from vethd.model.spec import RING, queue_len


@dataclass(eq=False)
class Link:
    """A device that this process holds.

    txqueuelen is the requested value, None if no value was requested. ring is the number of frames that the device must
    have room for at least. The device gets queue_len.
    label names its namespace (kernel.netns.label()). epoch counts our changes of the carrier; news counts the
    rtnetlink messages. master is the bridge's name, if the link is a port. surveyed holds the counters that were last
    returned to a caller.
    kept lists the names under which a keeper holds the fds (keeper.py). passed and oversize are added to the filter's
    counts to get those of the device's whole life.
    """

    tap: Tap
    place: Place
    label: str
    txqueuelen: int | None = None
    ring: int = RING
    filter: TunFilter | None = None
    master: str = ""
    surveyed: LinkState | None = None
    kept: list[str] = field(default_factory=list)
    drops: KernelDrops = field(default_factory=KernelDrops)
    epoch: int = 0
    news: int = 0
    passed: int = 0
    oversize: int = 0

    @property
    def state(self) -> LinkState:
        """The state from the last rtnetlink message."""
        return self.place.state

    @property
    def queue_len(self) -> int:
        """The txqueuelen that the device must have, in frames."""
        return queue_len(self.txqueuelen, self.ring)

    def update(self, state: LinkState) -> None:
        """Store the state from the latest rtnetlink message."""
        self.place = self.place._replace(state=state)

    def filter_counts(self) -> FilterCounts | None:
        """Return the filter's counts of refused and passed frames since the device was made, None without a filter."""
        if self.filter is None:
            return None
        counts = self.filter.counts()
        return FilterCounts(self.oversize + counts.oversize, self.passed + counts.passed)

    def calibrate(self, read: int | None) -> None:
        """Align the filter's counts with the ledger; read is the engine's count, with the queue just found empty.

        Frames that the kernel dropped while no daemon looked go to the ledger's unknown. read None means that the queue
        is busy: its drops until it is first empty will count as queue_full.
        """
        lost = self.state.counters.tx_dropped - sum(self.drops.by_reason().values())
        self.drops.unknown += max(lost, 0)
        if self.filter is not None and read is not None:
            counts = self.filter.counts()
            self.passed = read + self.drops.queue_full - counts.passed
            self.oversize = self.drops.oversize - counts.oversize

    def set_limit(self, limit: int) -> None:
        """Have the kernel refuse frames of more than limit bytes, if the link has a filter."""
        if self.filter is not None:
            self.filter.set_limit(limit)

    def close(self) -> None:
        """Close our fds, which deletes the device if no other process holds one. Blocks for tens of milliseconds."""
        self.tap.close()
