"""Does it grow? A trend through what a process weighed while it worked, robust against single outliers.

A leak goes on as it began, and the later half shows it, too; an allocator that warms up grows less and less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

POINTS = 60  # of which the trend is made: of each two of them, so more would cost and not tell more


@dataclass
class Growth:
    """What one process weighed, in KB, after how much work. Work is whatever a leak would leak by: pairs made.

    warm_up is how much of it comes before the allocator has seen all that there is; room_kb how much noise there is.
    """

    room_kb: int = 4096
    warm_up: int = 40
    least: int = 12
    _work: list[int] = field(default_factory=list)
    _weights: list[int] = field(default_factory=list)

    def add(self, work: int, weight_kb: int) -> None:
        """Take a sample; work never goes back."""
        if work >= self.warm_up:
            self._work.append(work)
            self._weights.append(weight_kb)

    @property
    def span(self) -> int:
        """How much work the samples cover."""
        return self._work[-1] - self._work[0] if self._work else 0

    def slope(self) -> float:
        """Return KB a unit of work: of the trend of all samples and that of the later half the lesser."""
        return min(self._slope(0), self._slope(len(self._work) // 2))

    def _slope(self, first: int) -> float:
        """Return the median of the slopes between any two of the samples from first on (Theil and Sen)."""
        some = slice(first, None, -(-len(self._work) // POINTS) or 1)
        points = list(zip(self._work[some], self._weights[some], strict=True))
        slopes = [(w2 - w1) / (x2 - x1) for n, (x1, w1) in enumerate(points) for x2, w2 in points[n + 1 :] if x2 > x1]
        return median(slopes) if slopes else 0.0

    def verdict(self) -> str:
        """Say by how much it grew, "" where that is within the noise or too few samples tell."""
        if len(self._work) < self.least:
            return ""
        grown_kb = self.slope() * self.span
        if grown_kb <= self.room_kb:
            return ""
        return f"memory grew by {grown_kb:.0f} KB over {self.span} pairs made: {self.slope():.1f} KB each"
