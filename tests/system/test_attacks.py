"""Attacks on a real daemon that it once gave way to: no news after a storm, no descriptors, input beyond all limits."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.lib.lab import Lab
from tests.lib.lab import lab as make_lab
from tests.lib.site import FdCall, Site, fd_call
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec, PairSpec

NEWS = 12_000  # of 1.5 KB each: more than a receive buffer of 8 MiB holds
CALLERS = 300  # who connect while the daemon is held up
FDS_FREE = 12  # enough to answer, too few for many pairs


@pytest.fixture
def lab(site: Site) -> Iterator[Lab]:
    """Yield a bench whose clearing away proves that the daemon keeps no descriptor."""
    with make_lab(site) as bench:
        yield bench
    log = site.daemon.log.read_text()
    assert not [line for line in log.splitlines() if "Traceback" in line or "task failed" in line]


@pytest.fixture
def held_up(site: Site) -> Iterator[None]:
    """Stop the daemon until the test is over, or until it lets go on itself."""
    os.kill(site.daemon.pid, signal.SIGSTOP)
    yield
    os.kill(site.daemon.pid, signal.SIGCONT)


def test_news_that_were_lost_are_made_up_for_and_later_ones_heard(site: Site, lab: Lab) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.up()
    os.kill(site.daemon.pid, signal.SIGSTOP)
    try:
        wire.a.netns.ip(*(f"link set dev va mtu {1400 + number % 2}" for number in range(NEWS)))
        wire.a.set("mtu 1234", "name vz")
        wire.b.down()
    finally:
        os.kill(site.daemon.pid, signal.SIGCONT)
    wire.a.name = "vz"

    def known() -> list[tuple[str, int, bool]]:
        return [(link["name"], link["mtu"], link["up"]) for link in site.daemon.pairs()[0]["links"]]

    wait_until(lambda: known() == [("vz", 1234, True), ("vb", 1500, False)], 20.0, "the state after the gap")
    assert "overflowed" in site.daemon.log.read_text()
    wire.b.up()
    wire.wait_carrier()
    wire.b.set("mtu 1300")
    wait_until(lambda: known()[1] == ("vb", 1300, True), what="news after the gap")


@pytest.mark.heavy
def test_a_move_and_a_death_that_nobody_told(site: Site, lab: Lab) -> None:
    """Among the news that were lost: one end is elsewhere, one pair is none any more."""
    near, far, elsewhere = lab.netns("a"), lab.netns("b"), lab.netns("c")
    wire, other = lab.pair(near, far), lab.pair(near, far, LinkSpec(name="vc"), LinkSpec(name="vd"))
    wire.up()
    with site.daemon.stopped():
        near.ip(*(f"link set dev va mtu {1400 + number % 2}" for number in range(NEWS)))
        far.ip(f"link set vb netns {elsewhere.name}", "link del vd")
    wire.b.netns = elsewhere
    wait_until(lambda: [pair["spec"]["name"] for pair in site.daemon.pairs()] == ["va"], what="one pair left")
    wait_until(lambda: site.daemon.pairs()[0]["links"][1]["netns"] == elsewhere.name, what="where the end is")
    wait_until(lambda: not other.a.exists, what="both ends gone")
    wire.b.up()
    wire.wait_carrier()
    wire.b.wait(lambda link: link.qdisc == "noqueue", what="the qdisc")


def test_callers_wait_while_the_daemon_is_held_up(site: Site, lab: Lab, held_up: None) -> None:  # noqa: ARG001
    callers = [socket.socket(socket.AF_UNIX) for _ in range(CALLERS)]
    try:
        for caller in callers:
            caller.setblocking(False)
            caller.connect(str(site.socket))  # BlockingIOError where nobody may wait any more
    finally:
        for caller in callers:
            caller.close()


@pytest.mark.parametrize("netns", ["%00", "/x%00", "%ED%A0%80", "a" * 300, "fd:" + "9" * 5000])
def test_a_namespace_that_can_be_none_is_the_callers_fault(site: Site, lab: Lab, netns: str) -> None:  # noqa: ARG001
    assert 400 <= site.daemon.request("GET", f"/v1/links/va?netns={netns}")[0] < 500
    assert 400 <= fd_call(site.socket, "GET", f"/v1/links/va?netns={netns}", None, [0])[0] < 500


def test_nesting_without_end_is_refused(site: Site, lab: Lab) -> None:  # noqa: ARG001
    deep = b"[" * 20_000 + b"]" * 20_000
    with FdCall(site.socket) as call:
        call.say(b'{"method": "POST", "path": "/v1/pairs", "body": ' + deep + b"}")
        reply = call.hear()
    assert reply is not None
    assert reply[0] == 400


def test_a_long_reply_comes_whole_on_the_fd_passing_socket(site: Site, lab: Lab) -> None:  # noqa: ARG001
    alias = "\x01" * 250  # six bytes each in JSON, four times a pair
    pairs = [site.post({"name": f"l{n}", "alias": alias, "peer": {"name": f"p{n}", "alias": alias}}) for n in range(50)]
    status, body = fd_call(site.socket, "GET", "/v1/pairs")
    assert (status, len(body)) == (200, len(pairs))
    for pair in pairs:
        assert site.daemon.request("DELETE", f"/v1/pairs/{pair['id']}")[0] == 204


def test_without_descriptors_it_says_so_and_neither_spins_nor_breaks(site: Site, lab: Lab) -> None:
    a, b = lab.netns("a"), lab.netns("b")
    pid = site.daemon.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = site.daemon.fd_count() + FDS_FREE
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    calls: list[FdCall] = []
    pairs: list[str] = []
    try:
        while True:
            spec = lab.spec(a, b)
            status, body = site.daemon.request("POST", "/v1/pairs", _numbered(spec, len(pairs)))
            if status != 201:
                break
            pairs.append(body["id"])
        assert (body["code"], status) == ("EMFILE", 500)
        assert len(a.names()) == len(b.names()) == len(pairs)
        calls += [FdCall(site.socket) for _ in range(limit)]
        spent, since = _cpu_s(pid), time.monotonic()
        wait_until(lambda: time.monotonic() - since > 0.5)
        assert _cpu_s(pid) - spent < 0.3, "it spins"
    finally:
        for call in calls:
            call.sock.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    wait_until(lambda: site.daemon.request("GET", "/v1/health")[0] == 200)
    for pair in pairs:
        assert site.daemon.request("DELETE", f"/v1/pairs/{pair}")[0] == 204


def test_a_name_that_is_no_utf8_is_followed(site: Site, lab: Lab) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.up()
    wire.a.netns.run(os.spawnvp, os.P_WAIT, "ip", [b"ip", b"link", b"set", b"va", b"name", b"v\xff"])
    pair = wait_until(lambda: [p for p in site.daemon.pairs() if p["links"][0]["name"] == "v\\xff"])[0]
    status, body = site.daemon.request("PATCH", f"/v1/pairs/{pair['id']}", b'{"name": "va", "mtu": 1300}')
    assert status == 200, body
    assert wire.a.link.mtu == 1300
    assert site.daemon.request("GET", "/v1/stats")[0] == 200


@pytest.mark.parametrize("capability", ["net_admin", "sys_admin", "net_broadcast"])
def test_a_missing_capability_is_said_in_one_sentence(site: Site, tmp_path: Path, capability: str) -> None:
    drop = ["setpriv", "--bounding-set", f"-{capability}", "--inh-caps", f"-{capability}"]
    vethd = [sys.executable, "-m", "vethd.daemon.main", "--socket", str(tmp_path / "sock")]
    argv = ["ip", "netns", "exec", site.home.name, *drop, *vethd]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60.0)
    assert done.returncode == 1
    assert done.stderr.startswith(f"vethd: start: CAP_{capability.upper()} missing")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def _numbered(spec: PairSpec, number: int) -> bytes:
    raw = msgspec.to_builtins(spec)
    raw["name"], raw["peer"]["name"] = f"va{number}", f"vb{number}"
    return msgspec.json.encode(raw)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
