"""Each system call of an attachment's making fails in turn: it is whole, or nothing of it is left but the bridge."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lib import cni
from tests.lib.cni import BRIDGE
from tests.lib.footing import Footing
from tests.lib.injector import Hit, Injector, injected
from tests.lib.lab import End
from tests.lib.netns import Netns
from tests.lib.site import Site, fd_call
from tests.lib.site import site as make_site

pytestmark = pytest.mark.heavy

TURNS = range(int(os.environ.get("INJECTION_TURNS", "1")))
STEP = 6  # a turn fails every sixth call
ADDRESS, GATEWAY = "10.80.0.2", "10.80.0.1"
PATH = "/v1/attachments"


class Stage:
    """A daemon under a supervisor, a bridge, and a container's namespace."""

    def __init__(self, site: Site, injector: Injector, container: Netns) -> None:
        self.site = site
        self.injector = injector
        self.container = container
        self.fds = [os.open(netns.path, os.O_RDONLY) for netns in (container, site.home)]
        self.body = {
            "network": "net",
            "container": "c",
            "ifname": "eth0",
            "netns": "fd:0",
            "host_netns": "fd:1",
            "bridge": {"name": BRIDGE, "hairpin": True, "gateways": [f"{GATEWAY}/24"]},
            "ips": [{"address": f"{ADDRESS}/24", "gateway": GATEWAY}],
            "routes": [{"dst": "0.0.0.0/0"}],
        }

    def attach(self) -> tuple[int, Any]:
        return fd_call(self.site.socket, "POST", PATH, self.body, self.fds)

    def detach(self) -> None:
        assert fd_call(self.site.socket, "DELETE", f"{PATH}/net/c/eth0") == (204, None)

    def whole(self, answer: tuple[int, Any], hit: Hit) -> None:
        """See that what was made lacks nothing."""
        status, body = answer
        assert status == 201, (hit, body)
        End(self.container, "eth0").wait_carrier()
        assert [address[1] for address in cni.addresses(self.container, "eth0")] == [ADDRESS], hit
        assert {route[0] for route in cni.routes(self.container, "eth0")} == {"default", "10.80.0.0/24"}, hit
        assert GATEWAY in {address[1] for address in cni.addresses(self.site.home, BRIDGE)}, hit
        assert cni.port(self.site.home, body["host"]["name"])["hairpin"] is True, hit


@pytest.fixture
def stage(root: None, tmp_path: Path) -> Iterator[Stage]:  # noqa: ARG001 - the check that we may
    with make_site(tmp_path) as (site, lab), injected(site, tmp_path) as (injector, _):
        it = Stage(site, injector, lab.netns("c"))
        for _ in range(2):  # what is made once and kept is made now
            it.whole(it.attach(), None)
            it.detach()
        yield it
        for fd in it.fds:
            os.close(fd)
        site.home.ip(f"link delete {BRIDGE}")
        log = site.daemon.log.read_text()
        assert not [line for line in log.splitlines() if "Traceback" in line or "task failed" in line], log[-4000:]


@pytest.mark.parametrize("turn", TURNS)
def test_all_or_nothing(stage: Stage, turn: int) -> None:
    places = [stage.site.home, stage.container]
    before = Footing.of(stage.site.daemon, places)
    answers: list[tuple[int, Any]] = []
    hits, refusals = 0, 0

    def work() -> None:
        answers.append(stage.attach())

    for hit in stage.injector.each(work, turn, STEP, apart=False):
        status, body = answers[-1]
        hits += hit is not None
        if hit is not None and status >= 400:
            assert "internal error in vethd" not in body["message"], (hit, body)
            assert body["errno"] in errno.errorcode, (hit, body)
            refusals += 1
        else:
            stage.whole(answers[-1], hit)
            stage.detach()
        before.assert_kept(stage.site.daemon, places, str(hit))
        assert stage.site.daemon.request("GET", PATH) == (200, []), hit
    print(f"{hits} calls failed, {refusals} times it was refused")
    assert refusals > hits // 3 > 0
