"""What the unit tests stand on."""

from __future__ import annotations

import pytest

from tests.lib.engines import ENGINES, need


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Return the name of every engine in turn, the native one twice; or of the one that VETHD_ENGINE names."""
    name: str = request.param
    need(name)
    return name
