"""Pairs with a latency queue: what goes where, the order of every flow, and what outlives a daemon.

red [va 10.9.0.1, queue 0: TCP, queue 1: the rest] ==== vethd ==== [vb 10.9.0.2, the same two] blue
"""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lib.daemon import PROGRAM
from tests.lib.frames import ETH_P_IP, ether, tcp_partial, udp
from tests.lib.lab import End, Lab, Wire
from tests.lib.queued import queued
from tests.lib.seccomp import WITHOUT
from tests.lib.site import Place, Site, alive, toml_pair
from tests.lib.site import site as make_site
from tests.lib.sockets import tcp_transfers, udp_pair
from tests.lib.wait import wait_until
from vethd.kernel.abi import bpf_number

REPO = Path(__file__).resolve().parents[2]
PROTOCOL = 14 + 9  # in a frame of IPv4
FLOWS, ROUNDS, EACH = 8, 10, 6
STREAMS, STREAM_BYTES = 4, 1 << 20
BIG = 3000  # bytes of a datagram of two fragments and more
NO_BPF = "no BPF, pair made without its latency queue"


@pytest.fixture
def place(root: None, engine: str, tmp_path: Path) -> Iterator[Place]:  # noqa: ARG001 - the check that we may
    """Yield a site of each engine, and a bench."""
    with make_site(tmp_path, engine) as made:
        yield made


@pytest.fixture
def whichever(root: None, tmp_path: Path) -> Iterator[Place]:  # noqa: ARG001 - as above
    """Yield a site where the engine does not matter, and a bench."""
    with make_site(tmp_path) as made:
        yield made


def asked(lab: Lab, **more: Any) -> dict[str, Any]:
    """Return a request for a pair with a latency queue."""
    a, b = lab.netns("a"), lab.netns("b")
    return {"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name}, "latency_queue": True} | more


def make(site: Site, lab: Lab, **more: Any) -> Wire:
    """Make such a pair, up, with addresses."""
    site.post(asked(lab, **more))
    wire = lab.wire(*lab.netnses[-2:])
    wire.up()
    alive(wire)
    return wire


def shown(end: End) -> Any:
    """Return what `ip` shows of a device."""
    return json.loads(end.netns.command("ip", "-d", "-j", "link", "show", "dev", end.name))[0]


def persistent(end: End) -> bool:
    return bool(shown(end)["linkinfo"]["info_data"]["persist"])


def queues(site: Site) -> list[int]:
    return [link["queues"] for link in site.pair("va")["links"]]


def assert_steered(site: Site, wire: Wire) -> None:
    """See in the queues of a stopped daemon that each device gives TCP one queue, and UDP the other."""
    addresses = ("10.9.0.1", 1), ("10.9.0.2", 2)
    with site.daemon.stopped():
        for end in (wire.a, wire.b):
            with end.packet() as sock:
                for packet in (tcp_partial(*addresses, b"x"), udp(*addresses, b"x"), tcp_partial(*addresses, b"y")):
                    sock.send(ether(packet, proto=ETH_P_IP))
            found = [[frame[PROTOCOL] for frame in frames] for frames in queued(site.daemon.pid, end)]
            assert sorted(found) == [[6, 6], [17]]


def test_every_flow_is_whole_and_in_order(place: Place) -> None:
    """Whole and fragmented datagrams of one flow too, which overtake each other where the kernel chooses the queue."""
    site, lab = place
    site.start("--workers", "2")
    wire = make(site, lab)
    numbers = range(ROUNDS * EACH)
    with ExitStack() as stack:
        flows = [
            stack.enter_context(udp_pair(wire.a.netns, "10.9.0.1", wire.b.netns, "10.9.0.2")) for _ in range(FLOWS)
        ]
        ends = [end for flow in flows for end in flow]
        got: list[list[int]] = [[] for _ in ends]
        for first in numbers[::EACH]:
            for number in range(first, first + EACH):
                for end in ends:
                    end.send(number.to_bytes(8, "big") + bytes(0 if number % 3 else BIG))
            for received, end in zip(got, ends, strict=True):
                received += [int.from_bytes(end.recv(2 * BIG)[:8], "big") for _ in range(EACH)]
    assert got == [list(numbers)] * len(ends)
    payloads = [random.Random(stream).randbytes(STREAM_BYTES) for stream in range(STREAMS)]
    assert tcp_transfers(wire.a.netns, wire.b.netns, "10.9.0.2", payloads) == payloads
    assert_steered(site, wire)
    for end in site.daemon.request("GET", "/v1/stats")[1]:
        assert sum(end["drops"].values()) == 0


def test_what_is_shown(whichever: Place) -> None:
    site, lab = whichever
    site.start()
    wire = make(site, lab)
    assert queues(site) == [2, 2]
    assert site.pair("va")["spec"]["latency_queue"] is True
    for end in (wire.a, wire.b):
        link = shown(end)
        assert (link["linkinfo"]["info_data"]["numqueues"], link["qdisc"]) == (2, "noqueue")


def test_it_is_fixed_at_creation_and_chooses_the_queues(whichever: Place) -> None:
    site, lab = whichever
    site.start()
    make(site, lab)
    refused = site.daemon.request("PATCH", f"/v1/pairs/{site.pair('va')['id']}", b'{"latency_queue": false}')
    assert (refused[0], refused[1]["code"]) == (400, "EOPNOTSUPP")
    for more in ({"queues": 2}, {"peer": {"name": "vy", "queues": 4}}):
        body = json.dumps({"name": "vx", "latency_queue": True} | more).encode()
        status, reply = site.daemon.request("POST", "/v1/pairs", body)
        assert (status, reply["errno"]) == (400, errno.EINVAL)
        assert "latency_queue cannot be combined with queues > 1" in reply["message"]
    assert queues(site) == [2, 2]


def test_declared(whichever: Place) -> None:
    """A pair whose table gets the key, or loses it, is made again; without a change it is left alone."""
    site, lab = whichever
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    for line, made, deleted, number in (
        ("latency_queue = true", 1, 0, 2),
        ("latency_queue = true", 0, 0, 2),
        ("latency_queue = false", 1, 1, 1),
        ("", 0, 0, 1),
    ):
        site.configure(toml_pair(("va", a.name), ("vb", b.name), line))
        done = site.reload()
        assert (done["created"], done["deleted"]) == (made, deleted), line
        assert queues(site) == [number, number]


def test_saved_pairs_keep_it(whichever: Place) -> None:
    site, lab = whichever
    site.start()
    wire = make(site, lab)
    assert site.daemon.request("POST", "/v1/save")[0] == 200
    site.stop()
    site.start()
    site.wait_state("va", "alive")
    alive(wire)
    assert queues(site) == [2, 2]
    assert_steered(site, wire)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_without_bpf_a_pair_has_one_queue(place: Place, code: int) -> None:
    """The log tells why, once for each pair; the pair forwards, and a reload leaves it alone."""
    site, lab = place
    request = asked(lab)
    a, b = lab.netnses
    site.configure(toml_pair(("va", a.name), ("vb", b.name), "latency_queue = true"))
    site.program = forbidden(code)
    site.start()
    site.wait_state("va", "alive")
    alive(lab.wire(a, b))
    assert queues(site) == [1, 1]
    assert site.pair("va")["spec"]["latency_queue"] is request["latency_queue"]
    done = site.reload()
    assert (done["created"], done["changed"], done["deleted"]) == (0, 0, 0)
    lines = [json.loads(line) for line in site.daemon.log.read_text().splitlines()]
    told = [(line["name"], line["reason"]) for line in lines if line["event"] == NO_BPF]
    assert len(told) == 1
    assert os.strerror(code) in told[0][1]


def test_a_pair_waits_for_a_program_that_cannot_be_loaded_now(whichever: Place) -> None:
    """It would have one queue for good."""
    site, lab = whichever
    a, b = lab.netns("a"), lab.netns("b")
    site.configure(toml_pair(("va", a.name), ("vb", b.name), "latency_queue = true"))
    site.program = forbidden(errno.ENOMEM)
    site.start()
    assert os.strerror(errno.ENOMEM) in site.wait_state("va", "waiting")["reason"]
    assert a.names() == b.names() == set()


def forbidden(code: int) -> list[str]:
    """Return the command line of a vethd for which bpf(2) fails with code."""
    python = ["env", f"PYTHONPATH={REPO}", sys.executable, "-P", "-c", WITHOUT]
    return [*python, str(bpf_number()), str(code), *PROGRAM]


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_persistent_devices_keep_it(place: Place, end: str) -> None:
    site, lab = place
    site.configure("persist = true\n")
    site.start()
    wire = make(site, lab)
    before = [it.link.ifindex for it in (wire.a, wire.b)]
    wait_until(lambda: persistent(wire.a) and persistent(wire.b))
    wait_until((site.state / "devices").exists)
    getattr(site, end)()
    site.start()
    assert site.reconciled()["adopted"] == 1
    wire.wait_carrier()
    assert [it.link.ifindex for it in (wire.a, wire.b)] == before
    assert queues(site) == [2, 2]
    assert_steered(site, wire)
    alive_again(wire)
    assert site.daemon.request("DELETE", f"/v1/pairs/{site.pair('va')['id']}")[0] == 204


def alive_again(wire: Wire) -> None:
    """Forward both kinds."""
    payload = random.Random(7).randbytes(STREAM_BYTES)
    assert tcp_transfers(wire.a.netns, wire.b.netns, "10.9.0.2", [payload]) == [payload]
    with udp_pair(wire.a.netns, "10.9.0.1", wire.b.netns, "10.9.0.2") as (left, right):
        left.send(b"x")
        assert right.recv(10) == b"x"


def test_a_replacement_keeps_it(place: Place) -> None:
    site, lab = place
    site.start()
    wire = make(site, lab)
    before = [(it.link.ifindex, it.link.carrier_changes) for it in (wire.a, wire.b)]
    replace(site)
    assert [(it.link.ifindex, it.link.carrier_changes) for it in (wire.a, wire.b)] == before
    assert queues(site) == [2, 2]
    alive_again(wire)
    assert_steered(site, wire)


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
