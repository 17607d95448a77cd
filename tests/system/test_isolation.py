"""One pair's trouble never shows in another's traffic: all troubles, one by one, beside pairs that lose nothing.

    p [va] ===== [vb] q    1,000 numbered datagrams a second both ways: each must arrive
    s [va] ===== [vb] t    TCP as fast as it goes: no byte may be wrong

The troubles are in tests/lib/troubles.py; a pair at full load that meets its end is the last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.busy import Busy, neighbours
from tests.lib.lab import Lab
from tests.lib.load import Loads, compiled
from tests.lib.site import Site
from tests.lib.site import site as make_site
from tests.lib.troubles import TROUBLES

ENDS = 4  # that a pair at full load meets


@pytest.fixture(scope="module")
def loads(root: None, tmp_path_factory: pytest.TempPathFactory) -> Loads:  # noqa: ARG001 - the check that we may
    return compiled(tmp_path_factory.mktemp("load"))


@pytest.fixture
def grounds(root: None, engine: str, tmp_path: Path) -> Iterator[tuple[Site, Lab]]:  # noqa: ARG001 - as above
    """Yield a site of every engine, started, and its bench."""
    with make_site(tmp_path, engine) as (it, lab):
        it.state.mkdir()
        it.start()
        it.count_idle()
        yield it, lab
        log = it.daemon.log.read_text()
        assert not [line for line in log.splitlines() if "Traceback" in line or "task failed" in line], log[-4000:]


def lost(site: Site, pair: str) -> dict[str, int]:
    """Return what a pair has lost until now, by reason."""
    stats = [one for one in site.daemon.request("GET", "/v1/stats")[1] if one["pair"] == pair]
    assert len(stats) == 2
    return {reason: count for one in stats for reason, count in one["drops"].items() if count}


@pytest.mark.heavy
def test_nobody_notices(grounds: tuple[Site, Lab], loads: Loads) -> None:
    site, lab = grounds
    with neighbours(lab, loads):
        steady = site.daemon.pairs()[0]["id"]
        before = lost(site, steady)  # what was sent before the carrier came
        for trouble in TROUBLES:
            begin = time.monotonic()
            done = trouble(site, lab)
            assert lost(site, steady) == before, f"{trouble.__name__}: {done}"
            print(f"\n{trouble.__name__}: {done}, {time.monotonic() - begin:.1f} s, none lost", end="")
        busy = Busy(site, lab, loads)
        with busy.loads[0], busy.loads[1], busy.loads[2]:
            busy.meet_ends(ENDS)
            busy.close()
        assert lost(site, steady) == before, "a pair at full load"
        print(f"\na pair at full load met its end {ENDS} times, none lost")
    # neighbours() has compared what was sent and what arrived, datagram by datagram
