"""The two backends and the bench. VETHD_ENGINE says which engine vethd runs here (default asyncio)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lib.backends import ENGINE, Backend, KernelVeth, Vethd
from tests.lib.lab import Lab, Wire
from tests.lib.lab import lab as make_lab
from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns

VETHD = f"vethd-{ENGINE}"


@pytest.fixture(scope="session")
def home(request: pytest.FixtureRequest) -> Iterator[Netns]:
    """Give the namespace in which backends live: nothing of this suite touches the machine's own."""
    request.getfixturevalue("root")
    netns = Netns.create(f"{PREFIX}home")
    yield netns
    assert netns.names() == set()
    netns.delete()


@pytest.fixture(scope="session")
def vethd(home: Netns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vethd]:
    """Give one daemon for the whole session."""
    backend = Vethd(home, tmp_path_factory.mktemp("vethd"))
    yield backend
    backend.close()


@pytest.fixture(scope="session", params=["kernel", VETHD])
def backend(home: Netns, request: pytest.FixtureRequest) -> Backend:
    """Give the kernel's own veth, then vethd."""
    if request.param == "kernel":
        return KernelVeth(home)
    vethd: Vethd = request.getfixturevalue("vethd")
    return vethd


@pytest.fixture
def lab(backend: Backend) -> Iterator[Lab]:
    """Give a bench: namespaces and pairs, cleared away after the test with proof that nothing is left."""
    with make_lab(backend) as bench:
        yield bench


@pytest.fixture
def wire(lab: Lab) -> Wire:
    """Give a pair, va and vb, between two namespaces; both down."""
    return lab.pair(lab.netns("a"), lab.netns("b"))


@pytest.fixture
def live(wire: Wire) -> Wire:
    """Give a pair between two namespaces, up, with carrier."""
    wire.up()
    return wire
