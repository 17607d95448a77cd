"""What a small machine has to hold: the memory of a daemon with one pair."""

from __future__ import annotations

from tests.lib.engines import ENGINE
from tests.lib.lab import Lab
from tests.lib.machine import rss_mib
from tests.lib.site import Site

RSS_MIB = {"native": 40.0, "asyncio": 44.0}


def test_daemon_with_one_pair(site: Site, lab: Lab) -> None:
    lab.pair(lab.netns("a"), lab.netns("b")).up()
    used = rss_mib(site.daemon.pid)
    print(f"{used:.1f} MiB with engine {ENGINE}")
    assert used <= RSS_MIB[ENGINE]
