"""`persist = true`: devices that outlive a daemon whose fds nobody holds, and the next one, which attaches to them.

a [va 10.9.0.1] ===== [vb 10.9.0.2] b      home: the daemon's
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kernel.tap import BASE, IFF_NO_CARRIER, IFF_TUN_EXCL, Tap
from tests.lib.daemon import PROGRAM
from tests.lib.engines import ENGINE
from tests.lib.lab import End, Lab, Wire
from tests.lib.netns import Netns
from tests.lib.site import Site, toml_pair
from tests.lib.site import site as make_site
from tests.lib.sockets import ping
from tests.lib.wait import wait_until
from vethd.model.persisted import Whereabouts, read_back, write_down

Place = tuple[Site, Wire]
ON = "persist = true\n"
IFF_MULTI_QUEUE = 0x100


@pytest.fixture
def place(root: None, engine: str, tmp_path: Path) -> Iterator[Place]:  # noqa: ARG001 - the check that we may
    """Yield a pair of every engine that forwards and is persistent; deleted in the end, it must leave nothing."""
    yield from prepared(tmp_path, engine)


@pytest.fixture
def whichever(root: None, tmp_path: Path) -> Iterator[Place]:  # noqa: ARG001 - as above
    """Yield such a pair where the engine is none of the matter."""
    yield from prepared(tmp_path, ENGINE)


def prepared(tmp_path: Path, engine: str) -> Iterator[Place]:
    with make_site(tmp_path, engine) as (site, lab):
        site.configure(ON)
        site.start()
        wire = make(site, lab)
        yield site, wire
        if not site.running:
            site.start()
        site.reconciled()
        for pair in site.daemon.pairs():
            assert site.daemon.request("DELETE", f"/v1/pairs/{pair['id']}")[0] == 204


def make(site: Site, lab: Lab, **more: Any) -> Wire:
    a, b = lab.netns("a"), lab.netns("b")
    site.post({"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name}} | more)
    wire = lab.wire(a, b)
    wire.up()
    wire.addresses()
    forwards(wire)
    settled(site, wire.a, wire.b)
    return wire


def forwards(wire: Wire) -> None:
    wire.wait_carrier()
    ping(wire.a.netns, "10.9.0.1", wire.b.netns, "10.9.0.2")


def persistent(end: End) -> bool:
    """Ask the kernel."""
    (link,) = json.loads(end.netns.command("ip", "-d", "-j", "link", "show", "dev", end.name))
    return bool(link["linkinfo"]["info_data"]["persist"])


def file_of(site: Site) -> Path:
    return site.state / "devices"


def spots(site: Site) -> set[tuple[str, str, int]]:
    """Return what is written down."""
    try:
        _, record, places = read_back(file_of(site).read_bytes())
    except FileNotFoundError:
        return set()
    assert places.spots.keys() <= {name for pair in record.pairs for end in pair.ends for name in end.fds}
    return {(spot.name, spot.netns, spot.ifindex) for spot in places.spots.values()}


def settled(site: Site, *ends: End) -> None:
    """Wait until these ends, and no others, are written down and persistent."""
    wanted = {(end.name, end.netns.name, end.link.ifindex) for end in ends}
    wait_until(lambda: spots(site) == wanted, what=f"{wanted} written down")
    wait_until(lambda: all(map(persistent, ends)), what="persistence")


def again(site: Site) -> dict[str, int]:
    """Start, and return what the start came to."""
    site.start()
    return site.reconciled()


def told(site: Site, event: str) -> list[Any]:
    lines = [msgspec.json.decode(line) for line in site.daemon.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def squatter(end: End, more: int = 0) -> Tap:
    """Attach to a dead daemon's device, as soon as the kernel has released it."""

    def attach() -> list[Tap]:
        try:
            return [Tap(end.netns, end.name, (BASE & ~IFF_TUN_EXCL) | IFF_NO_CARRIER | more)]
        except OSError as error:
            assert error.errno == errno.EBUSY  # noqa: PT017 - anything else is a failure
            return []

    return wait_until(attach)[0]


def kept(end: End) -> dict[str, Any]:
    """Return what must stay."""
    ip = partial(end.netns.command, "ip", "-j")
    (address,) = json.loads(ip("addr", "show", "dev", end.name))
    routes = [
        {key: value for key, value in route.items() if key != "flags"}  # linkdown, for as long as it is
        for route in json.loads(ip("route", "show", "dev", end.name))
    ]
    neighbours = json.loads(ip("neigh", "show", "dev", end.name, "nud", "permanent"))
    names = ("ifindex", "ifname", "address", "mtu", "txqlen", "qdisc", "addr_info", "altnames", "ifalias")
    return {"link": [address.get(name) for name in names], "routes": routes, "neighbours": neighbours}


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_everything_stays(place: Place, end: str) -> None:
    site, wire = place
    wire.a.netns.ip(
        "route add 10.77.0.0/16 via 10.9.0.2", "neigh add 10.9.0.9 lladdr 02:00:00:00:00:09 dev va nud permanent"
    )
    wire.a.netns.command("ethtool", "-K", "va", "tso", "off")
    before = [(kept(it), it.link.carrier_changes) for it in (wire.a, wire.b)]
    frames = [stats["tx_packets"] for stats in site.daemon.request("GET", "/v1/stats")[1]]
    getattr(site, end)()
    wire.wait_carrier(False)

    assert again(site)["adopted"] == 1

    forwards(wire)
    # down with the last fd, and up again: nothing else moved
    assert [(kept(it), it.link.carrier_changes - 2) for it in (wire.a, wire.b)] == before
    assert "tcp-segmentation-offload: off" in wire.a.netns.command("ethtool", "-k", "va")
    now = site.daemon.request("GET", "/v1/stats")[1]
    assert all(stats["tx_packets"] > count for stats, count in zip(now, frames, strict=True))
    settled(site, wire.a, wire.b)


def test_where_it_is_and_what_it_is_called_are_kept_up(whichever: Place) -> None:
    site, wire = whichever
    elsewhere = Netns.create(f"{wire.b.netns.name}x")
    try:
        wire.a.down()
        wire.a.set("name vx")
        wire.a.name = "vx"
        wire.b.set(f"netns {elsewhere.name}")
        wire.b.netns = elsewhere
        wire.up()
        wire.b.address("10.9.0.2/24")
        wire.a.down()
        settled(site, wire.a, wire.b)
        site.kill()
        wire.a.set("name vy")  # while nobody looks
        wire.a.name = "vy"
        assert again(site)["adopted"] == 1
        assert {stats["name"] for stats in site.daemon.request("GET", "/v1/stats")[1]} == {"vy", "vb"}
        assert not wire.b.link.carrier
        wire.a.up()
        forwards(wire)
    finally:
        for pair in site.daemon.pairs():
            site.daemon.request("DELETE", f"/v1/pairs/{pair['id']}")
        elsewhere.delete()


@pytest.mark.heavy
def test_what_is_another_device_is_not_touched(whichever: Place) -> None:
    """A device of the same name; one of the same index and MAC that is no TAP; one that somebody has attached to."""
    site, wire = whichever
    a, lost = wire.a.netns, 0
    for what in ("name", "kind", "busy"):
        was = wire.a.link
        site.kill()
        tap = None
        if what == "busy":
            tap = squatter(wire.a)
        elif what == "name":
            a.ip("link del va", "tuntap add dev va mode tap vnet_hdr")
        else:
            a.ip("link del va", f"link add va index {was.ifindex} address {was.address} type bridge")
        stranger = wire.a.link
        did = again(site)
        assert (did["adopted"], did["lost"]) == (0, 1), what
        (line,) = told(site, "device not reattached")
        assert (line["name"], line["netns"]) == ("va", a.name)
        assert wire.a.link.ifindex == stranger.ifindex
        assert wire.a.link.address == stranger.address
        assert wire.b.netns.names() == set(), f"{what}: half a pair"
        if tap is not None:
            tap.carrier(True)  # it is still his
            tap.close()
        a.ip("link del va")
        lost += 1
        site.post({"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": wire.b.netns.name}})
        wire.up()
        settled(site, wire.a, wire.b)
    assert lost == 3


def test_a_declared_pair_is_made_anew_or_waits(whichever: Place) -> None:
    site, wire = whichever
    site.kill()
    site.configure(ON + toml_pair(("va", wire.a.netns.name), ("vb", wire.b.netns.name)))
    assert again(site)["adopted"] == 1  # and is the config's now
    assert site.pair("va")["source"] == "config"
    site.kill()
    wire.a.netns.ip("link del va")
    did = again(site)
    assert (did["lost"], did["created"]) == (1, 1)
    wire.addresses()
    forwards(wire)
    settled(site, wire.a, wire.b)
    site.kill()
    wire.a.netns.ip("link del va", "tuntap add dev va mode tap")
    again(site)
    assert os.strerror(errno.EEXIST) in site.wait_state("va", "waiting")["reason"]
    wire.a.netns.ip("link del va")
    site.configure(ON)
    site.reload()


def test_namespace_deleted_while_nobody_looks(whichever: Place) -> None:
    site, wire = whichever
    site.kill()
    wire.a.netns.delete()
    did = again(site)
    assert (did["adopted"], did["lost"]) == (0, 1)
    assert wire.b.netns.names() == set()
    wait_until(lambda: not spots(site), what="nothing written down")


@pytest.mark.parametrize("replaced", [False, True])
def test_namespace_that_an_fd_pins_dies_all_the_same(place: Place, replaced: bool) -> None:
    site, wire = place
    site.kill()
    assert again(site)["adopted"] == 1
    if replaced:
        replace(site)
    wire.b.netns.ip("link add witness type veth peer name gone netns " + wire.a.netns.name)
    wire.a.netns.delete()
    wait_until(lambda: wire.b.netns.names() == set(), what="the death of the namespace, and of the pair")
    wait_until(lambda: site.daemon.pairs() == [])


def replace(site: Site) -> None:
    """Put a new daemon in the place of the site's."""
    old = site.daemon.process
    argv = [*PROGRAM, "--socket", str(site.socket), "--config", str(site.config), "--replace"]
    with (site.directory / "vethd.log").open("ab") as log:
        new = site.home.run(
            partial(subprocess.Popen[bytes], stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0), argv
        )
    site.daemon.process = new
    assert old.wait(20) == 0, site.daemon.log_tail()
    wait_until(lambda: site.daemon.request("GET", "/v1/health")[1]["pid"] == new.pid)
    site.reconciled()


def test_persistence_passes_to_a_replacement(place: Place) -> None:
    site, wire = place
    changes = wire.a.link.carrier_changes
    replace(site)
    forwards(wire)
    assert wire.a.link.carrier_changes == changes
    wire.a.down()
    wire.a.set("name vx")
    wire.a.name = "vx"
    settled(site, wire.a, wire.b)  # the new one writes
    wire.a.up()
    site.kill()
    assert again(site)["adopted"] == 1
    forwards(wire)


@pytest.mark.parametrize("how", ["start", "replace"])
def test_persist_turned_off(whichever: Place, how: str) -> None:
    site, wire = whichever
    site.configure("")
    if how == "start":
        site.kill()
        assert again(site)["adopted"] == 1
    else:
        replace(site)
    forwards(wire)
    wait_until(lambda: not file_of(site).exists(), what="no file")
    assert not persistent(wire.a)
    assert not persistent(wire.b)
    site.stop()
    wire.a.wait_gone(20)
    wire.b.wait_gone(20)


@pytest.mark.parametrize("what", ["empty", "cut", "flipped", "no places", "boot"])
def test_a_file_that_says_nothing(whichever: Place, what: str) -> None:
    """Nothing of it is believed, and the daemon starts; whose the devices are nobody knows, so they stay."""
    site, wire = whichever
    site.kill()
    data = file_of(site).read_bytes()
    record, _, places = read_back(data)
    file_of(site).write_bytes(
        {
            "empty": b"",
            "cut": data[:-1],
            "flipped": data[:40] + bytes([data[40] ^ 1]) + data[41:],
            "no places": record,
            "boot": write_down(record, Whereabouts(boot="another", spots=places.spots)),
        }[what]
    )
    site.configure(ON + toml_pair(("va", wire.a.netns.name), ("vb", wire.b.netns.name)))
    did = again(site)
    assert (did["adopted"], did["lost"]) == (0, 0)
    assert os.strerror(errno.EEXIST) in site.wait_state("va", "waiting")["reason"]
    assert bool(told(site, "persistent device file unreadable")) == (what != "boot")
    assert (site.state / "devices.bad").exists() == (what != "boot")
    for end in (wire.a, wire.b):
        end.netns.ip(f"link del {end.name}")
    site.configure(ON)
    site.reload()


def test_deletion_leaves_nothing(place: Place) -> None:
    site, wire = place
    site.kill()
    again(site)
    (pair,) = site.daemon.pairs()
    assert site.daemon.request("DELETE", f"/v1/pairs/{pair['id']}")[0] == 204
    assert wire.a.netns.names() | wire.b.netns.names() == set()
    site.kill()
    assert again(site)["adopted"] == 0
    wait_until(lambda: not spots(site), what="nothing written down")


def test_several_queues(root: None, engine: str, tmp_path: Path) -> None:  # noqa: ARG001 - the check that we may
    with make_site(tmp_path, engine) as (site, lab):
        site.configure(ON)
        site.start()
        wire = make(site, lab, queues=3)
        site.kill()
        tap = squatter(wire.a, IFF_MULTI_QUEUE)
        try:
            assert again(site)["lost"] == 1  # a queue is somebody else's: the kernel would give us others
        finally:
            tap.close()
        wire.a.netns.ip("link del va")
        wire = make(site, lab, queues=3)
        site.kill()
        assert again(site)["adopted"] == 1
        forwards(wire)
        (pair,) = site.daemon.pairs()
        assert site.daemon.request("DELETE", f"/v1/pairs/{pair['id']}")[0] == 204


def test_what_cannot_be_found_again_is_not_persistent(whichever: Place) -> None:
    site, wire = whichever
    with wire.a.netns.process():
        wire.a.netns.delete()  # the namespace lives, without a name
        wait_until(lambda: not spots(site), what="nothing written down")
        assert not persistent(wire.b)
        assert len(site.daemon.pairs()) == 1
        site.kill()
        wire.b.wait_gone(20)


@pytest.mark.heavy
def test_killed_at_any_moment(place: Place) -> None:
    """Whatever was under way, the next one has a pair whole, or there is nothing of it."""
    site, wire = place
    a, b = wire.a.netns, wire.b.netns
    body = msgspec.json.encode({"name": "vc", "netns": a.name, "peer": {"name": "vd", "netns": b.name}})
    for number in range(8):
        pairs = [pair["id"] for pair in site.daemon.pairs() if pair["spec"]["name"] == "vc"]
        if pairs:
            site.daemon.request("DELETE", f"/v1/pairs/{pairs[0]}")
        else:
            site.daemon.request("POST", "/v1/pairs", body)
            if number % 4 == 2:
                wait_until(lambda: len(spots(site)) == 4, what="both pairs written down")
        site.kill()
        again(site)
        there = len(site.daemon.pairs()) - 1
        names = ({"va", "vc"}, {"vb", "vd"}) if there else ({"va"}, {"vb"})
        wait_until(lambda names=names: (a.names(), b.names()) == names, what=f"{names}")  # type: ignore[misc]
    forwards(wire)


def test_a_full_disk_is_told(whichever: Place) -> None:
    """What cannot be written down is not made persistent; what was stays so."""
    site, wire = whichever
    file_of(site).unlink()
    file_of(site).mkdir()  # what no file can replace
    pair = site.post({"name": "vc", "netns": wire.a.netns.name, "peer": {"name": "vd", "netns": wire.b.netns.name}})
    wait_until(lambda: told(site, "persistent device file not written"))
    assert not persistent(End(wire.a.netns, "vc"))
    assert persistent(wire.a)
    file_of(site).rmdir()
    assert site.daemon.request("PATCH", f"/v1/pairs/{pair['id']}", b'{"up": true}')[0] == 200
    settled(site, wire.a, wire.b, End(wire.a.netns, "vc"), End(wire.b.netns, "vd"))
    wait_until(lambda: not list(site.state.glob(".*")), what="no half-written file")
