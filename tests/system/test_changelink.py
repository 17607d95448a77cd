"""PATCH on living pairs: every attribute, on either end, all of it or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.kernel.lib import Net
from tests.lib.lab import End, Lab, Wire
from tests.lib.rtnl import IFF_ALLMULTI, IFF_MULTICAST, IFF_NOARP, IFF_PROMISC, Link
from tests.lib.site import Site, fd_call
from tests.lib.sockets import ping
from tests.lib.wait import wait_until
from vethd.model.spec import CREATE_ONLY, LinkSpec

Reply = tuple[int, Any]


@pytest.fixture
def live(lab: Lab) -> Wire:
    wire = lab.pair(lab.netns("a", ipv6=True), lab.netns("b", ipv6=True))
    wire.up()
    return wire


def patch(site: Site, end: End, **said: Any) -> Reply:
    """PATCH one end."""
    return site.daemon.request("PATCH", site.daemon.link_path(end.name, end.netns.name), msgspec.json.encode(said))


def patch_pair(site: Site, **said: Any) -> Reply:
    """PATCH the only pair."""
    path = f"/v1/pairs/{site.daemon.pairs()[0]['id']}"
    return site.daemon.request("PATCH", path, msgspec.json.encode(said))


def settled(link: Link) -> dict[str, Any]:
    """Return what a change may touch; not what counts or names."""
    left_out = ("stats", "carrier_changes", "carrier_ups", "carrier_downs", "alias", "altnames", "ifindex")
    return {key: value for key, value in vars(link).items() if key not in left_out}


# said: what a link then shows
CHANGES: dict[str, tuple[dict[str, Any], Callable[[Link], object], object]] = {
    "address": ({"address": "02:00:00:00:00:77"}, lambda link: link.address, "02:00:00:00:00:77"),
    "mtu": ({"mtu": 9000}, lambda link: link.mtu, 9000),
    "txqueuelen": ({"txqueuelen": 1017}, lambda link: link.txqueuelen, 1017),
    "ring": ({"ring": 64}, lambda link: link.txqueuelen, 64),
    "group": ({"group": 42}, lambda link: link.group, 42),
    "alias": ({"alias": "grün"}, lambda link: link.alias, "grün"),
    "altname": ({"altname": "another-name-for-it"}, lambda link: "another-name-for-it" in link.altnames, True),
    "up": ({"up": False}, lambda link: link.up, False),
    "arp": ({"arp": False}, lambda link: link.flags & IFF_NOARP, IFF_NOARP),
    "multicast": ({"multicast": False}, lambda link: link.flags & IFF_MULTICAST, 0),
    "allmulticast": ({"allmulticast": True}, lambda link: link.flags & IFF_ALLMULTI, IFF_ALLMULTI),
    "promisc": ({"promisc": True}, lambda link: link.flags & IFF_PROMISC, IFF_PROMISC),
    "addrgenmode": ({"addrgenmode": "none"}, lambda link: link.addrgenmode, "none"),
    "gso_max_size": ({"gso_max_size": 30000}, lambda link: link.gso_max_size, 30000),
    "gso_max_segs": ({"gso_max_segs": 10}, lambda link: link.gso_max_segs, 10),
    "gro_max_size": ({"gro_max_size": 30000}, lambda link: link.gro_max_size, 30000),
}
ELSEWHERE = {"name", "netns", "master", *CREATE_ONLY}  # tested by themselves


def test_the_carrier_is_as_the_reply_says(site: Site, live: Wire) -> None:
    """Who sends as soon as he is answered loses nothing: on veth up and carrier are one."""
    for n in range(20):
        assert patch_pair(site, up=bool(n % 2))[0] == 200
        links = [end.get() for end in (live.a, live.b)]
        assert [link is not None and link.carrier for link in links] == [bool(n % 2)] * 2


def test_no_attribute_is_forgotten() -> None:
    assert set(CHANGES) | ELSEWHERE == set(LinkSpec.__struct_fields__)


@pytest.mark.parametrize("attribute", CHANGES)
@pytest.mark.parametrize("which", ["near", "far"])
def test_attribute_changes_live(site: Site, live: Wire, which: str, attribute: str) -> None:
    """On that end alone, and seen in the reply, in the spec, and on the device."""
    said, look, seen = CHANGES[attribute]
    end, other = (live.a, live.b) if which == "near" else (live.b, live.a)
    untouched = settled(other.link)
    assert look(end.link) != seen
    status, body = patch(site, end, **said)
    assert status == 200
    assert look(end.link) == seen
    if attribute in body:
        assert body[attribute] == said[attribute]
    pair = site.daemon.pairs()[0]
    spec = pair["spec"] if which == "near" else pair["spec"]["peer"]
    assert spec[attribute] == said[attribute]
    if attribute == "up":
        other.wait_carrier(False)
    else:
        assert settled(other.link) == untouched
        ping(live.a.netns, *_addressed(live))


def test_a_ring_is_as_long_as_it_shall_be(site: Site, live: Wire) -> None:
    """Whatever txqueuelen is asked for, by us or on the device; every pair has its ring from the engine, or its own."""

    def seen() -> list[tuple[int, int, int]]:
        links = [
            site.daemon.request("GET", site.daemon.link_path(end.name, end.netns.name))[1] for end in (live.a, live.b)
        ]
        return [
            (*(told[key] for key in ("txqueuelen", "ring")), end.link.txqueuelen)
            for told, end in zip(links, (live.a, live.b), strict=True)
        ]

    assert patch(site, live.a, ring=70, txqueuelen=0)[0] == 200
    assert seen() == [(0, 70, 70), (1000, 1000, 1000)]
    assert site.daemon.request("PATCH", "/v1/engine", b'{"ring": 2000}')[1]["ring"] == 2000
    wait_until(lambda: seen() == [(0, 70, 70), (1000, 2000, 2000)], what="the ring of the end that said none")
    live.a.set("txqueuelen 7")
    live.b.set("txqueuelen 3000")
    wait_until(lambda: seen() == [(7, 70, 70), (3000, 3000, 3000)], what="the rings")
    live.b.set("txqueuelen 9")
    wait_until(lambda: seen() == [(7, 70, 70), (9, 2000, 2000)], what="the rings")
    assert patch(site, live.a, ring=0)[0] == 200
    assert seen() == [(7, 2000, 2000), (9, 2000, 2000)]
    assert patch_pair(site, ring=5000, name="taken", peer={"ring": 5000, "name": "lo"})[0] == 409
    wait_until(lambda: seen() == [(7, 2000, 2000), (9, 2000, 2000)], what="the rings as they were")
    ping(live.a.netns, *_addressed(live))


def _addressed(wire: Wire) -> tuple[str, Any, str]:
    if not wire.a.link.flags & IFF_NOARP and not wire.b.link.flags & IFF_NOARP:
        near, far = wire.addresses()
        return near, wire.b.netns, far
    near, far = wire.addresses()
    for end, peer, address in ((wire.a, wire.b, far), (wire.b, wire.a, near)):
        end.netns.ip(f"neigh replace {address} dev {end.name} lladdr {peer.link.address}")
    return near, wire.b.netns, far


def test_everything_at_once(site: Site, live: Wire) -> None:
    said = {key: value for one, _, _ in CHANGES.values() for key, value in one.items()} | {"up": True}
    status, body = patch_pair(site, **said, peer=said | {"address": "02:00:00:00:00:78"}, rx_checksum="trust")
    assert (status, body["rx_checksum"]) == (200, "trust")
    for end in (live.a, live.b):
        link = end.link
        for name, (_, look, seen) in CHANGES.items():
            if name not in ("up", "address", "ring"):  # beside a larger txqueuelen a ring is not to be seen
                assert look(link) == seen, name


@pytest.mark.parametrize("key", CREATE_ONLY)
@pytest.mark.parametrize("which", ["near", "far"])
def test_what_cannot_change_is_eopnotsupp(site: Site, live: Wire, which: str, key: str) -> None:
    end = live.a if which == "near" else live.b
    before = settled(end.link)
    status, body = patch(site, end, **{key: 2, "mtu": 1400})
    assert (status, body["code"]) == (400, "EOPNOTSUPP")
    assert key in body["message"]
    assert settled(end.link) == before


def test_set_and_taken_away(site: Site, live: Wire) -> None:
    """Alias, altname and master: "" takes them away."""
    live.a.netns.ip("link add br0 type bridge", "link set br0 up")
    assert patch(site, live.a, alias="mine", altname="first", master="br0")[1]["master"] == "br0"
    link = live.a.link
    assert (link.alias, link.master != 0) == ("mine", True)
    assert link.altnames == ("first",)
    assert patch(site, live.a, altname="second")[0] == 200
    assert live.a.link.altnames == ("second",)
    assert patch(site, live.a, altname="second")[0] == 200, "to what it is already"
    status, body = patch(site, live.a, alias="", altname="", master="")
    assert (status, body["altname"], body["master"]) == (200, "", "")
    link = live.a.link
    assert (link.alias, link.master, link.altnames) == ("", 0, ())


@pytest.mark.parametrize(("key", "value"), [("alias", "mine"), ("group", 7), ("altname", "other"), ("mtu", 1400)])
def test_change_of_an_end_that_is_down(site: Site, live: Wire, key: str, value: object) -> None:
    """The kernel reports some changes only of devices that are up; the API shows all of them at once."""
    live.a.set("down")
    live.b.wait_carrier(False)
    assert patch(site, live.a, **{key: value})[1][key] == value
    shown = site.daemon.request("GET", site.daemon.link_path(live.a.name, live.a.netns.name))[1]
    assert shown[key] == value


def test_rename(site: Site, live: Wire) -> None:
    assert patch(site, live.a, name="new")[1]["name"] == "new"
    assert live.a.netns.names() == {"new"}
    live.a.name = "new"
    assert site.daemon.request("GET", "/v1/links/vb")[1]["peer_name"] == "new"
    assert site.daemon.request("GET", "/v1/links/va")[0] == 404
    assert patch(site, live.a, name="va%d")[1]["code"] == "EINVAL"
    near, far = live.addresses()
    ping(live.a.netns, near, live.b.netns, far)


# --- moves


@pytest.mark.parametrize("which", ["near", "far"])
def test_move_by_name(site: Site, lab: Lab, live: Wire, which: str) -> None:
    """The moved end is down and keeps what was set; `up` in the same breath is done over there."""
    end = live.a if which == "near" else live.b
    target = lab.netns("c")
    status, body = patch(site, end, netns=target.name, mtu=1400, name="moved", up=True)
    assert (status, body["netns"], body["mtu"], body["name"], body["up"]) == (200, target.name, 1400, "moved", True)
    assert body["netns_inode"] == target.path.stat().st_ino
    assert end.netns.names() == set()
    end.netns, end.name = target, "moved"
    assert (end.link.qdisc, end.link.mtu) == ("noqueue", 1400)
    live.wait_carrier()
    near, far = live.addresses()
    ping(live.a.netns, near, live.b.netns, far)
    assert site.daemon.pairs()[0]["spec"].get("netns" if which == "near" else "peer") is not None


def test_move_closes_the_end(site: Site, lab: Lab, live: Wire) -> None:
    target = lab.netns("c")
    assert patch(site, live.b, netns=target.name)[1]["up"] is False
    live.b.netns = target
    assert not live.b.link.up
    live.a.wait_carrier(False)
    assert patch(site, live.b, netns=target.name)[0] == 200, "to where it is already"


def test_both_ends_move_by_fd(site: Site, lab: Lab, live: Wire) -> None:
    targets = Net(), Net()
    path = f"/v1/pairs/{site.daemon.pairs()[0]['id']}"
    body = {"netns": "fd:1", "up": True, "peer": {"netns": "fd:0", "up": True}}
    status, pair = fd_call(site.socket, "PATCH", path, body, [targets[1].fd, targets[0].fd])
    assert status == 200
    assert [link["netns_inode"] for link in pair["links"]] == [net.inode for net in targets]
    assert "fd:" not in json.dumps(pair["spec"])
    live.a.netns, live.b.netns = targets
    live.wait_carrier()
    near, far = live.addresses()
    ping(targets[0], near, targets[1], far)
    home = lab.netns("home")
    assert fd_call(site.socket, "PATCH", path, {"netns": home.name})[0] == 200, "else it dies with its namespace"
    for net in targets:
        net.let_go()
    wait_until(lambda: home.names() == set())


def test_move_to_where_the_name_is_taken(site: Site, lab: Lab, live: Wire) -> None:
    """It stays, up and as it was; under another name it may go."""
    target = lab.netns("c")
    target.ip("link add vb type bridge")
    before = settled(live.b.link)
    status, body = patch(site, live.b, netns=target.name, mtu=1400)
    assert (status, body["code"]) == (409, "EEXIST")
    assert settled(live.b.wait(lambda link: link.carrier)) == before
    assert patch(site, live.b, netns=target.name, name="vc", up=True)[0] == 200
    assert target.names() == {"vb", "vc"}
    live.b.netns, live.b.name = target, "vc"
    live.wait_carrier()


# --- all or nothing

NEAR = {
    "mtu": 1400,
    "group": 3,
    "txqueuelen": 5,
    "alias": "x",
    "altname": "y",
    "promisc": True,
    "arp": False,
    "up": False,
}
BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "name taken": ({"name": "taken"}, 409, "EEXIST"),
    "no such netns": ({"netns": "no-such-netns"}, 404, "ENOENT"),
    "no such master": ({"master": "no-bridge"}, 404, "ENODEV"),
    "altname taken": ({"altname": "taken"}, 409, "EEXIST"),
    "bad value": ({"mtu": 67}, 400, "EINVAL"),
    "half of it": ({"mtu": 1300, "group": 9, "name": "taken"}, 409, "EEXIST"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("which", ["near", "far"])
def test_all_or_nothing(site: Site, live: Wire, which: str, bad: str) -> None:
    """What one end was given is taken back where the other end's part is refused."""
    said, status, code = BAD[bad]
    good, victim = (live.a, live.b) if which == "far" else (live.b, live.a)
    victim.netns.ip("link add taken type bridge")
    before = [(settled(end.link), end.link.alias, end.link.ifindex) for end in (good, victim)]
    specs = site.daemon.pairs()[0]["spec"]
    change = {**NEAR, "peer": said} if which == "far" else {**said, "peer": NEAR}
    got, body = patch_pair(site, **change)
    assert (got, body["code"]) == (status, code)
    live.wait_carrier()
    assert [(settled(end.link), end.link.alias, end.link.ifindex) for end in (good, victim)] == before
    assert not good.link.altnames
    assert site.daemon.pairs()[0]["spec"] == specs
    near, far = live.addresses()
    ping(live.a.netns, near, live.b.netns, far)


def test_a_move_is_taken_back(site: Site, lab: Lab, live: Wire) -> None:
    """Home again, up, a port of its bridge, with its way to make addresses; only its IP addresses are lost."""
    target = lab.netns("c")
    live.a.netns.ip("link add br0 type bridge", "link set va master br0", "link set va addrgenmode none")
    live.b.netns.ip("link add taken type bridge")
    before = settled(live.a.link)
    assert before["master"]
    status, body = patch_pair(site, netns=target.name, name="gone", mtu=1400, peer={"name": "taken"})
    assert (status, body["code"]) == (409, "EEXIST")
    assert target.names() == set()
    link = live.a.wait(lambda link: link.carrier)
    assert settled(link) == before
    assert site.daemon.request("GET", "/v1/links/va")[1]["netns"] == live.a.netns.name
    near, far = live.addresses()
    live.a.netns.ip("link set va nomaster")
    ping(live.a.netns, near, live.b.netns, far)


def test_change_of_nothing(site: Site, live: Wire) -> None:
    before = [settled(live.a.link), settled(live.b.link)]
    assert patch_pair(site)[0] == 200
    assert patch_pair(site, peer={})[0] == 200
    assert patch(site, live.b)[0] == 200
    assert [settled(live.a.link), settled(live.b.link)] == before
