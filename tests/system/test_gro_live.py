"""What holds for all pairs, and what a pair says of itself: gro and spin_us, said by config, API and command line.

Whether a wire coalesces is seen at its receiver: while the daemon is stopped a burst of datagrams waits in the sending
TAP; then it is read at once, and a capture there sees super-frames or frames. The socket gets the same.
"""

from __future__ import annotations

import itertools
import json
from contextlib import closing
from typing import Any

import msgspec

from tests.lib.daemon import UnixConnection
from tests.lib.engines import ENGINE
from tests.lib.frames import ETH_P_IP
from tests.lib.lab import Lab, Wire
from tests.lib.service import CONTROL, VETHD, Service
from tests.lib.site import Place, Site, toml_pair
from tests.lib.site import up as up_declared
from tests.lib.sockets import exchange, udp_pair
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture
from vethd.control import Client
from vethd.model.api import EngineInfo, PairEvent

__all__ = ["systemd_box_fixture"]

BURST = 16

_numbers = itertools.count()


def ask(site: Site, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    return site.daemon.request(method, path, None if body is None else msgspec.json.encode(body))


def engine(site: Site) -> EngineInfo:
    status, body = ask(site, "GET", "/v1/engine")
    assert status == 200
    return msgspec.convert(body, EngineInfo)


def coalesces(site: Site, wire: Wire, addresses: tuple[str, str]) -> bool:
    """Return whether a burst comes as fewer frames than datagrams; that they all come, in order, is seen to."""
    with udp_pair(wire.a.netns, addresses[0], wire.b.netns, addresses[1]) as (left, right), wire.b.packet() as capture:
        exchange(left, right, b"hello")  # ARP is done, and nobody else speaks
        capture.drained()
        payloads = [f"{next(_numbers):0100d}".encode() for _ in range(BURST)]
        with site.daemon.stopped():
            for payload in payloads:
                left.send(payload)
        assert [right.recv(1 << 16) for _ in payloads] == payloads
        frames = sum(one.proto == ETH_P_IP for one in capture.drained())
    assert 0 < frames <= BURST
    return frames < BURST


def run_time_pair(site: Site, lab: Lab, **own: Any) -> tuple[str, Wire, tuple[str, str]]:
    """Make a pair with its own words; return its id, its ends and their addresses."""
    a, b = lab.netns("a"), lab.netns("b")
    pair = site.post({"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name}, **own})
    wire = lab.wire(a, b)
    wire.up()
    return pair["id"], wire, wire.addresses()


def test_gro_is_on_and_a_pair_says_otherwise_while_it_lives(site: Site, lab: Lab) -> None:
    pair, wire, addresses = run_time_pair(site, lab)
    path = f"/v1/pairs/{pair}"
    assert ask(site, "GET", path)[1]["gro"] is True
    assert coalesces(site, wire, addresses)
    for said, holds, spec in (
        (False, False, False),
        (True, True, True),
        (False, False, False),
        ("default", True, None),
    ):
        status, body = ask(site, "PATCH", path, {"gro": said})
        assert (status, body["gro"], body["spec"].get("gro")) == (200, holds, spec)
        assert coalesces(site, wire, addresses) is holds
    assert ask(site, "PATCH", path, {"gro": "maybe"})[0] == 400
    assert ask(site, "PATCH", path, {"gro": False, "mtu": 1})[0] == 400
    assert coalesces(site, wire, addresses), "all of a change or nothing"


def test_a_pair_that_is_made_without(site: Site, lab: Lab) -> None:
    _, wire, addresses = run_time_pair(site, lab, gro=False)
    assert not coalesces(site, wire, addresses)


def test_the_daemon_s_word_is_for_who_says_nothing(site: Site, lab: Lab) -> None:
    _, silent, silent_at = run_time_pair(site, lab)
    _, says, says_at = run_time_pair(site, lab, gro=True)
    with closing(UnixConnection(site.socket)) as listener:
        listener.request("GET", "/v1/events")
        events = listener.getresponse()
        assert ask(site, "PATCH", "/v1/engine", {"gro": False})[1]["gro"] is False
        event = msgspec.json.decode(events.readline(), type=PairEvent)
        events.close()
    assert (event.event, event.detail) == ("engine_changed", "gro off")
    assert (coalesces(site, silent, silent_at), coalesces(site, says, says_at)) == (False, True)
    _, later, later_at = run_time_pair(site, lab)
    assert not coalesces(site, later, later_at)
    assert ask(site, "PATCH", "/v1/engine", {"gro": True})[1]["gro"] is True
    assert coalesces(site, silent, silent_at)


def test_spin_us_is_live_where_there_is_one(site: Site, lab: Lab) -> None:
    _, wire, addresses = run_time_pair(site, lab)
    before = engine(site)
    for spin_us in (0, 1000, 50):
        status, body = ask(site, "PATCH", "/v1/engine", {"spin_us": spin_us})
        if before.spin_us is None:
            assert (status, body["code"], engine(site)) == (400, "EOPNOTSUPP", before)
        else:
            assert (status, body["spin_us"]) == (200, spin_us)
        assert coalesces(site, wire, addresses)
    for bad in (-1, 1001, "50", 1.5):
        assert ask(site, "PATCH", "/v1/engine", {"spin_us": bad})[0] == 400
    assert engine(site) == before


def test_metrics_and_health_name_it(site: Site) -> None:
    info = engine(site)
    assert ask(site, "GET", "/v1/health")[1]["engine"] == info.name == ENGINE
    text = Client(str(site.socket)).metrics()
    assert f'vethd_build_info{{engine="{ENGINE}"' in text
    assert f"vethd_engine_workers {info.workers}.0" in text
    assert ("vethd_engine_spin_seconds 5e-05" in text) == (info.spin_us is not None)


def test_config_and_reload(place: Place) -> None:
    """The file's word at the start, its new word at a reload; what was said by the API goes with it."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    pair = toml_pair(("va", a.name), ("vb", b.name))
    site.configure(f"gro = false\nspin_us = 7\n{pair}")
    site.start()
    site.wait_state("va", "alive")
    wire = lab.wire(a, b)
    addresses = up_declared(wire)
    spins = engine(site).spin_us is not None
    assert (engine(site).gro, engine(site).spin_us) == (False, 7 if spins else None)
    assert not coalesces(site, wire, addresses)
    site.configure(f"spin_us = 8\n{pair}")
    site.reload()
    assert (engine(site).gro, engine(site).spin_us) == (True, 8 if spins else None)
    assert coalesces(site, wire, addresses)
    site.configure(toml_pair(("va", a.name), ("vb", b.name), "gro = false"))
    assert site.reload()["changed"] == 1
    assert not coalesces(site, wire, addresses)
    ask(site, "PATCH", "/v1/engine", {"gro": False})
    site.configure(pair)
    assert site.reload()["changed"] == 1
    assert coalesces(site, wire, addresses)
    assert site.pair("va")["spec"].get("gro") is None
    assert "setting needs a restart" not in site.daemon.log.read_text()


def test_reload_says_what_takes_a_restart(place: Place) -> None:
    site, _ = place
    site.start()
    before = engine(site)
    site.configure("workers = 7")
    site.reload()
    assert engine(site) == before
    told = [json.loads(line) for line in site.daemon.log.read_text().splitlines() if "setting needs a restart" in line]
    assert [(line["key"], line["config"], line["running"]) for line in told] == [("workers", 7, 0)]


def test_an_option_wins_over_the_config(place: Place) -> None:
    site, _ = place
    site.configure("spin_us = 8\nworkers = 1")
    site.start("--spin-us", "9", "--workers", "2")
    expected = (2, 9) if engine(site).spin_us is not None else (0, None)
    assert (engine(site).workers, engine(site).spin_us) == expected
    site.reload()
    assert (engine(site).workers, engine(site).spin_us) == expected


def test_restart_keeps_what_a_pair_said(systemd_box: SystemdBox) -> None:
    """In the record, with the pair; what was said of all pairs is the config's again."""
    service = Service(systemd_box)
    service.start()
    for netns in ("red", "blue"):
        systemd_box.output("ip", "netns", "add", netns)
    vethctl = [str(VETHD.with_name("vethctl")), "--socket", CONTROL]
    for name, peer, more in (("va", "vb", ["--gro", "off"]), ("vc", "vd", [])):
        ends = [name, "--netns", "red", "--up", "--peer", peer, "--peer-netns", "blue", "--peer-up"]
        systemd_box.output(*vethctl, "add", *ends, *more)
    systemd_box.output(*vethctl, "engine", "--gro", "off")
    pid = service.pid
    systemd_box.output("systemctl", "restart", "vethd.service")
    assert service.pid != pid
    pairs = {pair["spec"]["name"]: pair for pair in service.get("/v1/pairs")}
    assert {name: (pair["state"], pair["gro"]) for name, pair in pairs.items()} == {
        "va": ("alive", False),
        "vc": ("alive", True),
    }
    service.ping()
    systemd_box.output(*vethctl, "set", "va", "--gro", "default")
    assert {pair["gro"] for pair in service.get("/v1/pairs")} == {True}
