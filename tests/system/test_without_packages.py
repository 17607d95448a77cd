"""A daemon without uvloop and without python-pytun, as on machines that have neither wheels nor a compiler.

red [va] ==== vethd ==== [vb] blue
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.lib import House
from tests.lib.daemon import PROGRAM
from tests.lib.frames import sized
from tests.lib.lab import Lab, Wire
from tests.lib.site import Place, Site, toml_pair
from tests.lib.site import site as make_site
from tests.lib.sockets import ping, tcp_transfers
from tests.lib.wait import wait_until
from vethd.kernel import tun
from vethd.kernel.tun import Tap
from vethd.model.errors import VethError

HIDDEN = ("uvloop", "pytun")


@pytest.fixture
def place(root: None, engine: str, tmp_path: Path) -> Iterator[Place]:  # noqa: ARG001 - the check that we may
    """Yield a site of each engine whose daemon finds neither package, and a bench."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in HIDDEN:
        (hidden / f"{name}.py").write_text("raise ImportError('hidden')\n")
    with make_site(tmp_path, engine) as (site, lab):
        site.program = ("env", f"PYTHONPATH={hidden}", *PROGRAM)
        site.start()
        yield site, lab


def live(site: Site, lab: Lab, queues: int = 1) -> tuple[Wire, tuple[str, str]]:
    """Make a pair, up, with addresses."""
    a, b = lab.netns("a"), lab.netns("b")
    site.post(
        {"name": "va", "netns": a.name, "queues": queues, "peer": {"name": "vb", "netns": b.name, "queues": queues}}
    )
    wire = lab.wire(a, b)
    wire.up()
    return wire, wire.addresses()


def assert_passes(wire: Wire, near: str, far: str) -> None:
    """Ping across, and move TCP both ways."""
    ping(wire.a.netns, near, wire.b.netns, far)
    data = [bytes([n]) * (1 << 20) for n in range(2)]
    assert tcp_transfers(wire.a.netns, wire.b.netns, far, data) == data


@pytest.mark.parametrize("queues", [1, 4])
def test_a_pair_lives(place: Place, queues: int) -> None:
    site, lab = place
    wire, (near, far) = live(site, lab, queues)
    assert_passes(wire, near, far)
    assert "uvloop is not installed" in site.daemon.log.read_text()
    wire.b.down()
    wire.wait_carrier(False)
    wire.b.up()
    wire.wait_carrier()
    assert_passes(wire, near, far)
    wire.a.netns.ip("link del va")
    wire.b.wait_gone()
    wait_until(lambda: not site.daemon.pairs(), what="the pair's end")


def test_reload_and_waiting_pairs(place: Place) -> None:
    site, lab = place
    there = lab.netns("there")
    site.configure(toml_pair(("vx", there.name), ("vy", there.name)))
    assert site.reload()["created"] == 1
    site.configure("")
    assert site.reload()["deleted"] == 1


def test_events_and_captures(place: Place) -> None:
    """What is long-lived on both sockets: an event stream ends with the daemon, and so does SIGTERM's work."""
    site, lab = place
    wire, _ = live(site, lab)
    with wire.a.packet() as sock, wire.b.packet() as receiver:
        sock.send(sized(100))
        receiver.recv_proto()
    site.stop()
    wire.a.wait_gone()


class TestIoctl:
    """The ioctl makes the same device as python-pytun, and refuses in the same words."""

    @pytest.fixture(params=["pytun", "ioctl"], autouse=True)
    def way(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "ioctl":
            monkeypatch.setattr(tun, "pytun", None)

    @pytest.mark.parametrize("queues", [1, 3])
    def test_birth(self, house: House, queues: int) -> None:
        tap = house.net().run(Tap.birth, "va", queues)
        assert (tap.ifname, len(tap.fds)) == ("va", queues)
        tap.close()

    def test_a_name_that_is_taken(self, house: House) -> None:
        net = house.net()
        tap = net.run(Tap.birth, "va", 1)
        with pytest.raises(VethError) as refusal:
            net.run(Tap.birth, "va", 1)
        assert refusal.value.code == "EEXIST"
        tap.close()

    def test_the_kernel_chooses(self, house: House) -> None:
        tap = house.net().run(Tap.birth, "veth%d", 1)
        assert tap.ifname == "veth0"
        tap.close()
