"""Pairs with several queues: every flow whole and in order, every frame counted, whichever worker has its queue.

red [va 10.9.0.1, queues 0..3] ==== vethd, a worker for every other queue ==== [vb 10.9.0.2, queues 0..3] blue
"""

from __future__ import annotations

import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.lib.lab import End, Lab, Wire
from tests.lib.queued import queued
from tests.lib.site import Place, Site, toml_pair, up
from tests.lib.site import site as make_site
from tests.lib.sockets import exchange, tcp_transfers, udp_pair
from tests.lib.wait import wait_until
from vethd.control import Client
from vethd.model.api import LinkStats
from vethd.model.drops import Drop
from vethd.model.spec import LinkSpec

QUEUES = 4
FLOWS = 40
ROUNDS = 5
EACH = 12  # datagrams of a flow in a round and direction: all of them fit into one queue's txqueuelen
STREAMS = 8
STREAM_BYTES = 1 << 20
SOURCE_PORT = 14 + 20  # in a frame of UDP over IPv4

Flows = list[tuple[socket.socket, socket.socket]]


@pytest.fixture
def place(root: None, tmp_path: Path) -> Iterator[Place]:  # noqa: ARG001 - the check that we may
    with make_site(tmp_path) as made:
        made[0].start("--workers", "2")
        yield made


def pair_of(lab: Lab, near: int = QUEUES, far: int = QUEUES) -> tuple[Wire, tuple[str, str]]:
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(queues=near), LinkSpec(queues=far))
    wire.up()
    return wire, wire.addresses()


@contextmanager
def flows_of(wire: Wire, addresses: tuple[str, str]) -> Iterator[Flows]:
    """Yield the sockets of many flows, each of which has been used once in both directions."""
    with ExitStack() as stack:
        flows = [
            stack.enter_context(udp_pair(wire.a.netns, addresses[0], wire.b.netns, addresses[1])) for _ in range(FLOWS)
        ]
        for left, right in flows:
            exchange(left, right, b"hello")
        yield flows


def numbered_rounds(flows: Flows) -> list[list[int]]:
    """Send numbered datagrams both ways on all flows, interleaved; return the numbers that each socket received."""
    got: list[list[int]] = [[] for _ in range(2 * len(flows))]
    ends = [end for flow in flows for end in flow]
    for first in range(0, ROUNDS * EACH, EACH):
        for number in range(first, first + EACH):
            for end in ends:
                end.send(number.to_bytes(8, "big") + bytes(number))
        for place, end in enumerate(ends):
            got[place] += [int.from_bytes(end.recv(2048)[:8], "big") for _ in range(EACH)]
    return got


def settled(site: Site) -> tuple[LinkStats, LinkStats]:
    """Wait until nothing is under way, and give both ends' counters, which add up."""
    client = Client(str(site.socket))

    def settle() -> list[LinkStats]:
        # the kernel's counters are read before the engine's: only the second of two alike is of one moment
        first, stats = client.stats(), client.stats()
        still = first == stats and all(end.read == end.tx_packets and not end.in_flight for end in stats)
        return stats if still else []

    near, far = wait_until(settle, what="every frame that was sent is read, and none under way")
    for end in (near, far):
        assert end.read == end.forwarded + sum(end.drops[drop.label] for drop in Drop)
    return near, far


def test_every_flow_is_whole_and_in_order(place: Place) -> None:
    site, lab = place
    wire, addresses = pair_of(lab)
    with flows_of(wire, addresses) as flows:
        assert numbered_rounds(flows) == [list(range(ROUNDS * EACH))] * (2 * FLOWS)
    random_ = random.Random(4)
    payloads = [random_.randbytes(STREAM_BYTES) for _ in range(STREAMS)]
    assert tcp_transfers(wire.a.netns, wire.b.netns, addresses[1], payloads) == payloads
    for end in settled(site):
        assert sum(end.drops.values()) == 0
        assert end.forwarded_bytes == end.read_bytes == end.tx_bytes


@pytest.mark.parametrize(("near", "far"), [(QUEUES, QUEUES), (QUEUES, 1), (1, QUEUES), (3, 2)])
def test_counters_are_exact(place: Place, near: int, far: int) -> None:
    """With coalescing off the kernel's figures at the receiver are the engine's; numbers may be uneven."""
    site, lab = place
    wire, addresses = pair_of(lab, near, far)
    assert [link["queues"] for link in site.pair("va")["links"]] == [near, far]
    site.daemon.request("PATCH", "/v1/engine", b'{"gro": false}')
    with flows_of(wire, addresses) as flows:
        got = numbered_rounds(flows)
        assert [sorted(numbers) for numbers in got] == [list(range(ROUNDS * EACH))] * (2 * FLOWS)
        if near == far:
            assert got == [list(range(ROUNDS * EACH))] * (2 * FLOWS)
    one, other = settled(site)
    for sender, receiver in ((one, other), (other, one)):
        assert sender.forwarded == sender.read == receiver.rx_packets
        assert sender.forwarded_bytes == sender.read_bytes == receiver.rx_bytes
        assert sender.read >= FLOWS * (ROUNDS * EACH + 1)
        assert sum(sender.drops.values()) == 0


def test_a_flow_has_the_same_queue_at_both_ends(place: Place) -> None:
    """The kernel's hash spreads flows over the queues, and what is written where it was read stays together."""
    site, lab = place
    wire, addresses = pair_of(lab)
    with flows_of(wire, addresses) as flows:
        # each side's by itself: nothing keeps the two namespaces from choosing the same port for different flows
        ports = [{end.getsockname()[1]: number for number, end in enumerate(side)} for side in zip(*flows, strict=True)]
        with site.daemon.stopped():
            for left, right in flows:
                for _ in range(3):
                    left.send(b"x")
                    right.send(b"x")
            ends = zip((wire.a, wire.b), ports, strict=True)
            near, far = (flows_queued(site.daemon.pid, end, names) for end, names in ends)
    assert sum(len(frames) for frames in near) == sum(len(frames) for frames in far) == 3 * FLOWS
    together = [{frozenset(frames) for frames in end if frames} for end in (near, far)]
    assert together[0] == together[1]
    assert sum(len(flows_of_one) for flows_of_one in together[0]) == FLOWS, "no flow is in two queues"
    assert len(together[0]) > 1


def test_declared(place: Place) -> None:
    """By the config, three queues each, as `ip` and `ethtool` show them."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.configure(toml_pair(("va", a.name), ("vb", b.name), "queues = 3", "queues = 3"))
    site.reload()
    site.wait_state("va", "alive")
    wire = lab.wire(a, b)
    addresses = up(wire)
    for end in (wire.a, wire.b):
        assert " multi_queue numqueues 3 numdisabled 0 " in output(end, "ip", "-d", "link", "show", end.name)
        assert output(end, "ethtool", "-l", end.name).split("Current")[1].split("Combined:")[1].split()[0] == "3"
    with flows_of(wire, addresses) as flows:
        assert numbered_rounds(flows) == [list(range(ROUNDS * EACH))] * (2 * FLOWS)


def output(end: End, *argv: str) -> str:
    """Run a program where the end is, and return what it prints."""
    done = end.netns.run(subprocess.run, argv, capture_output=True, text=True, check=True)
    return str(done.stdout)


def flows_queued(pid: int, end: End, ports: dict[int, int]) -> list[list[int]]:
    """Take the UDP frames out of a device's queues; give for each queue the flows of its frames, in order.

    ports names a flow by the port that it is sent from.
    """
    at = slice(SOURCE_PORT, SOURCE_PORT + 2)
    return [[ports[int.from_bytes(frame[at], "big")] for frame in frames] for frames in queued(pid, end)]
