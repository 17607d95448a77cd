"""What the system tests stand on: a daemon, bare namespaces, or a bench that is the kernel's veth first, then vethd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from tests.kernel.lib import House, Observatory
from tests.lib.backends import Backend, KernelVeth, Vethd
from tests.lib.engines import ENGINE
from tests.lib.lab import Lab, Wire
from tests.lib.lab import lab as make_lab
from tests.lib.leaks import PREFIX, Traces
from tests.lib.netns import Netns
from tests.lib.site import Place, Site
from tests.lib.site import site as make_site


@pytest.fixture(scope="session")
def program_home(root: None) -> Iterator[Netns]:  # noqa: ARG001 - the check that we may
    """Yield the namespace in which the backends live."""
    netns = Netns.create(f"{PREFIX}prog")
    yield netns
    assert netns.names() == set()
    netns.delete()


@pytest.fixture(scope="session", params=["kernel", f"vethd-{ENGINE}"])
def program_backend(
    program_home: Netns, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    """Yield the kernel's veth, then vethd."""
    if request.param == "kernel":
        yield KernelVeth(program_home)
        return
    backend = Vethd(program_home, tmp_path_factory.mktemp("vethd"))
    yield backend
    backend.close()


@pytest.fixture
def bench(program_backend: Backend) -> Iterator[Lab]:
    """Yield a bench, cleared away after the test with proof that nothing is left."""
    with make_lab(program_backend) as lab:
        yield lab


@pytest.fixture
def wire(bench: Lab) -> Wire:
    """Return a live pair with 10.9.0.1 and fd09::1 on va in one namespace, .2 and ::2 on vb in another."""
    wire = bench.pair(bench.netns("a", ipv6=True), bench.netns("b", ipv6=True))
    wire.up()
    wire.addresses()
    wire.a.address("fd09::1/64")
    wire.b.address("fd09::2/64")
    return wire


@pytest.fixture
def house(root: None) -> Iterator[House]:  # noqa: ARG001 - the check that we may
    """Yield a house to build in without a daemon; prove that nothing of it is left."""
    uvloop.new_event_loop().close()  # libuv's first loop opens a pipe that stays
    before = Traces.now()
    with Observatory() as observatory:
        with House(observatory) as it:
            yield it
        observatory.assert_all_dead()
    before.assert_nothing_left()


@pytest.fixture(scope="module")
def site(
    root: None,  # noqa: ARG001 - the check that we may
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Site]:
    """Yield the module's own daemon, running."""
    with make_site(tmp_path_factory.mktemp(request.module.__name__.rpartition("test_")[2])) as (it, _):
        it.start()
        it.count_idle()
        yield it


@pytest.fixture
def place(root: None, tmp_path: Path) -> Iterator[Place]:  # noqa: ARG001 - the check that we may
    """Yield a site that the test starts itself, and its bench."""
    with make_site(tmp_path) as made:
        yield made


@pytest.fixture
def lab(site: Site) -> Iterator[Lab]:
    """Yield a bench on the site, whose clearing away proves that the daemon keeps no descriptor."""
    with make_lab(site) as bench:
        yield bench
