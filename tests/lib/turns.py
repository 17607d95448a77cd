"""What the system tests of coalescing go through by turns: engines, coalescing on and off, address families."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lib.engines import ENGINES, need
from tests.lib.site import Site
from tests.lib.site import site as make_site

families = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@pytest.fixture(name="site", scope="module", params=ENGINES)
def site_fixture(
    root: None,  # noqa: ARG001 - the check that we may
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Yield a daemon with each engine."""
    need(request.param)
    with make_site(tmp_path_factory.mktemp(f"gro{request.param}"), request.param) as (it, _):
        it.start()
        it.count_idle()
        yield it


@pytest.fixture(name="gro", params=[False, True], ids=["off", "on"])
def gro_fixture(request: pytest.FixtureRequest) -> bool:
    """Have it coalesced, or not."""
    return bool(request.param)
