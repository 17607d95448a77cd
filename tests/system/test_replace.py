"""`vethd --replace`: the devices, counters and sockets of one daemon pass to another, or nothing happens at all."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.lib.daemon import PROGRAM
from tests.lib.engines import ENGINE
from tests.lib.lab import Wire
from tests.lib.meanwhile import meanwhile
from tests.lib.site import Site, alive, fd_call, toml_pair
from tests.lib.site import site as make_site
from tests.lib.sockets import ping
from tests.lib.wait import readable, wait_until
from vethd.doors.handover import PATH

END_S = 20.0
ASK = {"method": "POST", "path": PATH, "body": {"version": 1}}


@pytest.fixture
def place(root: None, tmp_path: Path) -> Iterator[tuple[Site, Wire]]:  # noqa: ARG001 - the check that we may
    with make_site(tmp_path) as (site, lab):
        a, b = lab.netns("a"), lab.netns("b")
        site.start()
        pair = {"name": "va", "netns": a.name, "up": True, "peer": {"name": "vb", "netns": b.name}}
        site.post(pair)
        wire = lab.wire(a, b)
        wire.b.up()
        alive(wire)
        yield site, wire


@contextmanager
def successor(site: Site, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Start `vethd --replace`; in the end it is the site's daemon, or is dead."""
    log = site.directory / "new.log"
    argv = [*PROGRAM, "--socket", str(site.socket), "--engine", ENGINE, "--replace", *args]
    with log.open("wb") as out:
        process = site.home.run(
            partial(subprocess.Popen[str], text=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out), argv
        )
    try:
        yield process
    finally:
        if site.daemon.process is not process:
            process.kill()
            process.wait()


def forwards(wire: Wire) -> None:
    """Prove that frames pass."""
    wire.wait_carrier()
    ping(wire.a.netns, "10.9.0.1", wire.b.netns, "10.9.0.2")


def replace(site: Site) -> str:
    """Replace the site's daemon, and return the old one's log."""
    old = site.daemon.process
    with successor(site) as new:
        code = old.wait(END_S)
        text = site.daemon.log.read_text()
        assert code == 0, text
        site.daemon.process = new
        wait_until(lambda: fd_call(site.socket, "GET", "/v1/health")[1]["pid"] == new.pid, what="the new one's answer")
    site.daemon.log = site.directory / "new.log"
    site.daemon.log.rename(site.directory / "vethd.log")
    site.daemon.log = site.directory / "vethd.log"
    assert "Traceback" not in text, text
    return text


def settled(site: Site) -> list[Any]:
    """Count once nothing is under way: the kernel's counters are read before the engine's, so it is looked at twice."""

    def look() -> list[Any]:
        first, stats = (list(site.daemon.request("GET", "/v1/stats")[1]) for _ in range(2))
        return stats if first == stats and not any(end["in_flight"] for end in stats) else []

    return wait_until(look, what="nothing under way")


def marks(site: Site, wire: Wire) -> list[Any]:
    """Return what must not move."""
    ends = [(end.link.ifindex, end.link.address, end.link.mtu, end.link.up) for end in (wire.a, wire.b)]
    return [
        *ends,
        site.socket.stat().st_ino,
        [stats["carrier_changes"] for stats in site.daemon.request("GET", "/v1/stats")[1]],
    ]


@contextmanager
def kept_up(work: Callable[[int], object], interval_s: float) -> Iterator[list[int]]:
    """Call work with growing numbers from a thread; the list has how often, once the body ended."""
    done: list[int] = []

    def work_on(end: int) -> None:
        number = 0
        try:
            while not select.select([end], [], [], interval_s)[0]:
                work(number)
                number += 1
        finally:
            done.append(number)

    with meanwhile(work_on, "kept up"):
        yield done


@contextmanager
def datagrams(wire: Wire) -> Iterator[list[int]]:
    """Send a numbered datagram each 2 ms from a to b; the list is what came, in order, once the body ended."""
    came: list[int] = []
    with ExitStack() as stack:
        make = partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        sender, receiver = (stack.enter_context(end.netns.run(make)) for end in (wire.a, wire.b))
        receiver.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        receiver.bind(("10.9.0.2", 7))
        sender.connect(("10.9.0.2", 7))
        with kept_up(lambda number: bool(sender.send(number.to_bytes(8, "big"))), 0.002) as sent:
            yield came
        while len(came) < sent[0] and readable(receiver.fileno()):
            came.append(int.from_bytes(receiver.recv(64), "big"))
        assert came == list(range(sent[0]))


def test_nothing_is_lost_and_nobody_refused(place: tuple[Site, Wire]) -> None:
    """Three in a row: the new one is replaced like the old."""
    site, wire = place
    before = marks(site, wire)
    read = [stats["read"] for stats in site.daemon.request("GET", "/v1/stats")[1]]

    def call(_number: int) -> None:
        assert fd_call(site.socket, "GET", "/v1/health")[0] == 200
        assert site.daemon.request("GET", "/v1/health")[0] == 200

    with datagrams(wire), kept_up(call, 0.01) as calls:
        logs = [replace(site) for _ in range(3)]
    assert calls[0] > 3
    assert all('"event": "replaced"' in log for log in logs)
    assert marks(site, wire) == before
    for one, then in zip(settled(site), read, strict=True):
        assert one["read"] == one["forwarded"] + sum(n for reason, n in one["drops"].items() if "kernel" not in reason)
        assert one["read"] >= then
    assert site.run("--socket", str(site.socket)).stderr == f"vethd: listen: another vethd serves {site.socket}\n"
    wire.b.down()
    wire.a.wait(lambda link: not link.carrier, what="the carrier goes")
    wire.b.up()
    forwards(wire)


def test_what_is_declared_stays_so(root: None, tmp_path: Path) -> None:  # noqa: ARG001 - the check that we may
    with make_site(tmp_path) as (site, lab):
        a, b = lab.netns("a"), lab.netns("b")
        site.configure(toml_pair(("va", a.name), ("vb", b.name)))
        site.start()
        site.wait_state("va", "alive")
        index = lab.wire(a, b).a.link.ifindex
        with successor(site, "--config", str(site.config)) as new:
            assert site.daemon.process.wait(END_S) == 0
            site.daemon.process = new
            assert site.wait_state("va", "alive")["source"] == "config"
        assert lab.wire(a, b).a.link.ifindex == index
        alive(lab.wire(a, b))


def test_without_a_daemon_it_just_starts(root: None, tmp_path: Path) -> None:  # noqa: ARG001 - the check that we may
    with make_site(tmp_path) as (site, _lab):
        site.start("--replace")
        assert "no running daemon to replace" in site.daemon.log.read_text()


READER = """
import asyncio, sys
from vethd.datapath.engines import Asked, pick_engine
from vethd.doors import handover
from vethd.memory.takeover import hold, read_record
async def main():
    _, fds = handover.ask(sys.argv[1])
    engine = pick_engine(Asked(sys.argv[2]), asyncio.get_running_loop()).engine
    held = {}
    hold(read_record(fds)[0], fds, engine, held, gro=True)
    await asyncio.sleep(0)
    print("reading", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_one_that_dies_when_it_forwards_already(place: tuple[Site, Wire]) -> None:
    """What it has moved is counted: the kernel knows how much that was."""
    site, wire = place
    argv = [sys.executable, "-c", READER, str(site.socket), ENGINE]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reading\n"
            forwards(wire)
        finally:
            reader.kill()
    forwards(wire)
    for end in settled(site):
        assert end["read"] == end["tx_packets"]
        assert end["read"] == end["forwarded"] + sum(n for reason, n in end["drops"].items() if "kernel" not in reason)
    assert "handover failed, resuming" in site.daemon.log.read_text()


@contextmanager
def asked(site: Site) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Yield a process of its own that asked for everything, got it, holds it, and does what it is told by a line."""
    script = """
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.send(sys.argv[2].encode())
names, kept = [], []
while True:
    data, fds, _, _ = socket.recv_fds(s, 1 << 16, 253)
    got = json.loads(data)["body"]["names"]
    assert len(got) == len(fds)
    names += got
    kept += fds
    if not got:
        break
print(json.dumps(names), flush=True)
for line in sys.stdin:
    s.send(line.encode())
"""
    argv = [sys.executable, "-c", script, f"{site.socket}.fd", msgspec.json.encode(ASK).decode()]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, msgspec.json.decode(process.stdout.readline())
        finally:
            process.kill()


def fail(site: Site, process: subprocess.Popen[str], how: str) -> None:
    """Have a process that has everything fail in that way, and see the old one go on, alone."""
    if how == "killed":
        process.send_signal(signal.SIGKILL)
    else:
        assert process.stdin is not None
        process.stdin.write(how + "\n")
        process.stdin.flush()
    assert process.wait(END_S) == -signal.SIGKILL  # nobody else reads
    assert fd_call(site.socket, "GET", "/v1/health")[1]["pid"] == site.daemon.process.pid


def test_one_that_fails_with_all_in_its_hands(place: tuple[Site, Wire]) -> None:
    site, wire = place
    before = marks(site, wire)
    ways = ["killed", "garbage", '{"done": false}', msgspec.json.encode(ASK).decode()]
    with datagrams(wire):
        for how in ways:
            with asked(site) as (process, names):
                assert {"control", "fdpass", "lock", "s0", "s1", "u1", "u2"} == set(names)
                fail(site, process, how)
                forwards(wire)
    assert marks(site, wire) == before
    assert site.daemon.log.read_text().count('"event": "handover failed, resuming"') == len(ways)
    wire.b.set("mtu 1400")
    wait_until(lambda: site.daemon.request("GET", f"/v1/links/vb?netns={wire.b.netns.name}")[1]["mtu"] == 1400)
    replace(site)
    forwards(wire)


def test_what_makes_no_sense_does_no_harm(place: tuple[Site, Wire]) -> None:
    site, wire = place
    before = marks(site, wire)
    for body in (None, {}, {"version": 0}, {"version": "1"}, [1]):
        status, answer = fd_call(site.socket, "POST", PATH, body)
        assert status in (400, 404)
        assert answer["code"]
    for args in ("--config /nonexistent", "--engine nonsense", "--workers -1"):
        assert site.run("--socket", str(site.socket), "--replace", *args.split()).returncode in (2, 4)
    assert marks(site, wire) == before
    forwards(wire)


def test_one_asks_while_another_is_served(place: tuple[Site, Wire]) -> None:
    """It waits in the backlog until the other's fate is known, and then has what there is."""
    site, wire = place
    with asked(site) as (process, _), successor(site) as new:
        process.kill()
        assert site.daemon.process.wait(END_S) == 0
        site.daemon.process = new
        wait_until(lambda: fd_call(site.socket, "GET", "/v1/health")[1]["pid"] == new.pid)
    forwards(wire)


def test_nobody_else_may_ask(place: tuple[Site, Wire]) -> None:
    site, wire = place
    for path in (site.directory, *site.directory.parents[:2]):
        path.chmod(0o755)
    Path(f"{site.socket}.fd").chmod(0o666)
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]); "
    script += "s.send(sys.argv[2].encode()); print(s.recv(4096).decode())"
    argv = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", script]
    done = subprocess.run(
        [*argv, f"{site.socket}.fd", msgspec.json.encode(ASK).decode()], capture_output=True, text=True, check=False
    )
    answer = msgspec.json.decode(done.stdout)
    assert (answer["status"], answer["body"]["code"]) == (403, "EPERM"), done.stderr
    forwards(wire)
