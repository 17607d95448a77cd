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

# the machine may be busy: no example is judged by how long it, or its making, took
settings.register_profile("busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tools/suite split the tests between two processes."""
    parser.addoption("--aside", choices=("only", "no"), help="only tests that may run beside others, or none of them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one part: tests/unit and what is marked `aside`, or the others."""
    asked = config.getoption("--aside")
    if asked is None:
        return
    parts: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        parts[_unit(item) or _marked(item, "aside")].append(item)
    # first what takes all CPU time, beside tests/unit, which has no deadlines
    parts[True].sort(key=_unit, reverse=True)
    parts[False].sort(key=lambda item: _marked(item, "saturates"), reverse=True)
    items[:] = parts[asked == "only"]
    config.hook.pytest_deselected(items=parts[asked == "no"])


def _unit(item: pytest.Item) -> bool:
    return UNIT in item.path.parents


def _marked(item: pytest.Item, marker: str) -> bool:
    return item.get_closest_marker(marker) is not None


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
