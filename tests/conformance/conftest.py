"""The backends and the bench: the kernel's veth, and vethd with every engine, with coalescing and without.

VETHD_ENGINE leaves one engine of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lib.backends import Backend, KernelVeth, Vethd
from tests.lib.engines import ENGINES, need
from tests.lib.lab import Lab, Wire
from tests.lib.lab import lab as make_lab
from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns

VETHDS = [f"vethd-{engine}{gro}" for engine in ENGINES for gro in ("", "-nogro")]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what coalescing is no part of and what takes long, where all that differs is coalescing."""
    out = [item for item in items if item.get_closest_marker("without_frames") and "-nogro" in item.name]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def home(request: pytest.FixtureRequest) -> Iterator[Netns]:
    """Yield the namespace in which backends live: nothing of this suite touches the machine's own."""
    request.getfixturevalue("root")
    netns = Netns.create(f"{PREFIX}home")
    yield netns
    assert netns.names() == set()
    netns.delete()


@pytest.fixture(scope="session", params=["kernel", *VETHDS])
def backend(home: Netns, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Yield the kernel's own veth, then every vethd: one daemon each, for all cases."""
    name: str = request.param
    if name == "kernel":
        yield KernelVeth(home)
        return
    _, engine, *nogro = name.split("-")
    need(engine)
    vethd = Vethd(home, tmp_path_factory.mktemp(name), engine, gro=not nogro)
    yield vethd
    vethd.close()


@pytest.fixture
def lab(backend: Backend) -> Iterator[Lab]:
    """Yield a bench: namespaces and pairs, cleared away after the test with proof that nothing is left."""
    with make_lab(backend) as bench:
        yield bench


@pytest.fixture
def wire(lab: Lab) -> Wire:
    """Return a pair, va and vb, between two namespaces; both down."""
    return lab.pair(lab.netns("a"), lab.netns("b"))


@pytest.fixture
def live(wire: Wire) -> Wire:
    """Return a pair between two namespaces, up, with carrier."""
    wire.up()
    return wire
