"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.lib.engines import ENGINES, need
from tests.lib.leaks import Traces

UNIT = Path(__file__).parent / "unit"
PARTS = ("saturating", "aside", "rest")

# the machine may be busy: no example is judged by how long it, or its making, took
settings.register_profile("busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tools/suite run the tests in parts."""
    parser.addoption("--part", choices=PARTS, help="only tests that saturate the machine, may run aside, or neither")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one part."""
    part = config.getoption("--part")
    if part is not None:
        kept = [item for item in items if _part(item) == part]
        config.hook.pytest_deselected(items=[item for item in items if _part(item) != part])
        items[:] = kept


def _part(item: pytest.Item) -> str:
    if item.get_closest_marker("saturates") is not None:
        return "saturating"
    return "aside" if UNIT in item.path.parents or item.get_closest_marker("aside") is not None else "rest"


def pytest_configure() -> None:
    """Take the signals back that whoever runs us in the background has us ignore: our children would, too."""
    for number, action in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


@pytest.fixture(scope="session")
def root() -> Iterator[None]:
    """Refuse to run what needs root and /dev/net/tun without them: a skip would look like a pass.

    No name of a namespace is left when the last test has ended: `ip` complains of one that leads nowhere.
    """
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.fail("this test makes namespaces and TAP devices: run pytest as root, with /dev/net/tun", pytrace=False)
    yield
    assert not Traces.now().namespaces


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Return the name of every engine in turn, or of the one that VETHD_ENGINE names."""
    name: str = request.param
    need(name)
    return name
