"""Every frame that vethd has read came to an end that has a name: the sum is drawn up after each measurement."""

from __future__ import annotations

from typing import Any

from tests.lib.daemon import Daemon
from tests.lib.lab import Wire
from tests.lib.wait import wait_until


def audit(daemon: Daemon, wire: Wire) -> None:
    """Check, from the API's counters, that read = forwarded + drops + in flight, and that nothing stays in flight.

    Raises AssertionError, with the counters, where that does not hold for both directions at any look at them.
    """
    for end in (wire.a, wire.b):
        path = daemon.link_path(end.name, end.netns.name, "/stats")

        def settled(path: str = path) -> bool:
            status, stats = daemon.request("GET", path)
            assert status == 200, stats
            _balanced(stats)
            return not stats["in_flight"]

        wait_until(settled, what=f"nothing in flight from {end.name}")


def _balanced(stats: dict[str, Any]) -> None:
    drops = sum(count for reason, count in stats["drops"].items() if not reason.startswith("kernel_"))
    accounted = stats["forwarded"] + drops + stats["in_flight"]
    assert stats["read"] == accounted, f"{stats['read']} frames read, {accounted} accounted for: {stats}"
