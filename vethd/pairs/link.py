"""One living end: its device, its filter, where it is, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from vethd.kernel.births import Place
from vethd.kernel.linkstate import LinkState
from vethd.kernel.tun import Tap
from vethd.kernel.tunfilter import FilterCounts, TunFilter
from vethd.model.kernel_drops import KernelDrops


@dataclass(eq=False)
class Link:
    """A device that this process holds.

    label names its namespace (kernel.netns.label()). alias and altname are what publish() put there for `ip link`,
    "" before; own_alias says that the user's alias stands there, which is never touched. epoch counts the changes
    of carrier that we made, news the messages of rtnetlink. master is the bridge's name, where the link is a port.
    surveyed is what the counters were when they were last told to anybody.
    kept are the names under which the fds outlive us (keeper.py); passed and oversize are what the filter's counts
    lack of the device's whole life.
    """

    tap: Tap
    place: Place
    label: str
    own_alias: bool
    filter: TunFilter | None = None
    alias: str = ""
    altname: str = ""
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
        """What rtnetlink said last."""
        return self.place.state

    def update(self, state: LinkState) -> None:
        """Take rtnetlink's latest word."""
        self.place = self.place._replace(state=state)

    def filter_counts(self) -> FilterCounts | None:
        """Return what the filter refused and passed since the device was born, None without a filter."""
        if self.filter is None:
            return None
        counts = self.filter.counts()
        return FilterCounts(self.oversize + counts.oversize, self.passed + counts.passed)

    def calibrate(self, read: int | None) -> None:
        """Start the filter's counts where the ledger ends, with the queue just found dry after read frames.

        What the kernel dropped while nobody looked stays in the ledger's unknown. read None: the queue is busy, and
        what it drops until it is first dry will count as queue_full.
        """
        lost = self.state.counters.tx_dropped - sum(self.drops.by_reason().values())
        self.drops.unknown += max(lost, 0)
        if self.filter is not None and read is not None:
            counts = self.filter.counts()
            self.passed = read + self.drops.queue_full - counts.passed
            self.oversize = self.drops.oversize - counts.oversize

    def set_limit(self, limit: int) -> None:
        """Have the kernel refuse frames of more than limit bytes, where it can."""
        if self.filter is not None:
            self.filter.set_limit(limit)

    def close(self) -> None:
        """Delete the device by letting go of it. Blocks for tens of milliseconds."""
        self.tap.close()
