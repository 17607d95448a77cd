"""Does memory grow? A trend through the sizes of a working process, robust against single outliers.

A leak continues: it shows in the first third of the work, in the second and in the last. Other growth happens once: an
allocator gets its first burst, a cache fills up, an engine touches more of its buffers (a worker of the native one has
4.25 MB of them, and a burst of frames touches as many as it is long). Such growth does not last for three thirds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

POINTS = 60  # samples of a trend, which uses each two of them: more would cost time and add nothing
PARTS = 3


@dataclass
class Growth:
    """The sizes of one process, in KB, after amounts of work. Work is what a leak would grow by: pairs made.

    warm_up is the work before the first sample that counts. room_kb is the noise, with a margin. So a leak is found
    when it has reached room_kb: with 1,000 bytes per pair, after some 2,000 pairs.
    """

    room_kb: int = 2048
    warm_up: int = 100
    least: int = 15
    _work: list[int] = field(default_factory=list)
    _weights: list[int] = field(default_factory=list)

    def add(self, work: int, weight_kb: int) -> None:
        """Add a sample; work never decreases."""
        if work >= self.warm_up:
            self._work.append(work)
            self._weights.append(weight_kb)

    @property
    def span(self) -> int:
        """The work between the first sample and the last."""
        return self._work[-1] - self._work[0] if self._work else 0

    def slope(self) -> float:
        """Return KB per unit of work: the smallest of the trends of the parts."""
        count = len(self._work)
        return min(self._slope(count * part // PARTS, count * (part + 1) // PARTS) for part in range(PARTS))

    def _slope(self, first: int, end: int) -> float:
        """Return the median of the slopes between each two of these samples (Theil and Sen)."""
        some = slice(first, end, -(-(end - first) // POINTS) or 1)
        points = list(zip(self._work[some], self._weights[some], strict=True))
        slopes = [(w2 - w1) / (x2 - x1) for n, (x1, w1) in enumerate(points) for x2, w2 in points[n + 1 :] if x2 > x1]
        return median(slopes) if slopes else 0.0

    def verdict(self) -> str:
        """Return by how much it grew, "" if that is within the noise or there are too few samples."""
        if len(self._work) < self.least:
            return ""
        grown_kb = self.slope() * self.span
        if grown_kb <= self.room_kb:
            return ""
        return f"memory grew by {grown_kb:.0f} KB over {self.span} pairs made: {self.slope():.1f} KB each"
