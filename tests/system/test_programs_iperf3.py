"""iperf3: TCP, UDP and SCTP, every way; what arrived is counted, how fast is not judged."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.lib.backends import KernelVeth, Vethd
from tests.lib.daemon import Daemon
from tests.lib.lab import Lab, Wire
from tests.lib.lab import lab as make_lab
from tests.lib.netns import Netns
from tests.lib.programs import PROGRAM_S, Iperf3
from tests.lib.rtnl import Stats
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec

FAR4, FAR6 = "10.9.0.2", "fd09::2"
FAR = pytest.mark.parametrize("far", [FAR4, FAR6], ids=["v4", "v6"])
VOLUME = 64 << 20
MSS = 1448  # 1500 without headers of IPv4 and TCP with timestamps
FRAME_MAX = 1514


def counted(wire: Wire) -> tuple[Stats, Stats]:
    """Read both ends' counters."""
    return wire.a.link.stats, wire.b.link.stats


def assert_nothing_lost(bench: Lab, wire: Wire) -> None:
    """Hold both ends' counters against each other, and against the daemon's own books, once all is quiet.

    IPv6 has a word to say at any time (router solicitations), hence the second and third look. A receiver counts fewer
    frames where they were coalesced; then the daemon's books are what says that all were forwarded.
    """
    near, far = counted(wire)
    assert near.tx_dropped == near.rx_dropped == far.tx_dropped == far.rx_dropped == 0
    if not isinstance(bench.backend, Vethd):
        wire.wait_balanced()
    if isinstance(bench.backend, Vethd):
        daemon = bench.backend.daemon
        wait_until(lambda: booked(daemon, wire), what="the daemon counts as the kernel does")


def booked(daemon: Daemon, wire: Wire) -> bool:
    """Return whether the daemon read what the kernel says was sent. Raises AssertionError for any frame dropped."""
    status, stats = daemon.request("GET", "/v1/stats")
    assert status == 200
    ours = [link for link in stats if link["netns"] in (wire.a.netns.name, wire.b.netns.name)]
    assert len(ours) == 2
    for link in ours:
        assert link["read"] == link["forwarded"] + link["in_flight"]
        assert not any(link["drops"].values()), link["drops"]
    return all((link["read"], link["read_bytes"]) == (link["tx_packets"], link["tx_bytes"]) for link in ours)


def transferred(end: Any, key: str = "sum_received") -> int:
    """Return the bytes that iperf3 counts."""
    return int(end[key]["bytes"])


@FAR
@pytest.mark.parametrize("way", [(), ("-R",)], ids=["to", "from"])
def test_tcp(bench: Lab, wire: Wire, far: str, way: tuple[str, ...]) -> None:
    with Iperf3.serving(wire.b.netns, far) as iperf3:
        end = iperf3.measure(wire.a.netns, "-n", str(VOLUME), *way)
    assert transferred(end, "sum_sent") >= VOLUME
    assert transferred(end) > VOLUME // 2  # iperf3 cuts off what is under way once the sender has done his part
    carried = (wire.b if way else wire.a).link.stats.tx_bytes
    assert carried > transferred(end)
    assert_nothing_lost(bench, wire)


def test_tcp_both_ways_at_once(bench: Lab, wire: Wire) -> None:
    with Iperf3.serving(wire.b.netns, FAR4) as iperf3:
        moved = [0, 0]

        def both() -> bool:
            end = iperf3.measure(wire.a.netns, "--bidir", "-t", "1")
            for way, key in enumerate(("sum_received", "sum_received_bidir_reverse")):
                moved[way] += transferred(end, key)
            return min(moved) > VOLUME // 4

        wait_until(both, PROGRAM_S, "so much each way, on a fast machine in the first second")
    assert_nothing_lost(bench, wire)


def test_tcp_of_many_flows(bench: Lab, wire: Wire) -> None:
    with Iperf3.serving(wire.b.netns, FAR4) as iperf3:
        end = iperf3.measure(wire.a.netns, "-P", "8", "-t", "1")
    assert len(end["streams"]) == 8
    assert all(stream["receiver"]["bytes"] > 0 for stream in end["streams"])
    assert_nothing_lost(bench, wire)


@FAR
@pytest.mark.parametrize("way", [(), ("-R",)], ids=["to", "from"])
@pytest.mark.parametrize("load", [(64, 2000), (1400, 2000), (8000, 400)], ids=["64B", "1400B", "8000B"])
def test_udp(bench: Lab, wire: Wire, far: str, load: tuple[int, int], way: tuple[str, ...]) -> None:
    """A known number of datagrams, at a rate far from overload; 8,000 bytes are six fragments.

    What a socket's own buffer lost is not the pair's.
    """
    size, count = load
    sender, receiver = (wire.b, wire.a) if way else (wire.a, wire.b)
    with Iperf3.serving(wire.b.netns, far) as iperf3:
        rate = size * 8 * count * 4  # a quarter of a second
        end = iperf3.measure(wire.a.netns, "-u", "-l", str(size), "-b", str(rate), "-k", str(count), *way)
    assert_nothing_lost(bench, wire)
    assert udp_counter(receiver.netns, far, "InCsumErrors") == 0
    assert end["sum"]["packets"] >= count
    assert end["sum"]["lost_packets"] <= udp_counter(receiver.netns, far, "RcvbufErrors")
    assert sender.link.stats.tx_packets >= count


def udp_counter(netns: Netns, address: str, counter: str) -> int:
    """Read a counter of UDP, of the address's IP version."""
    if ":" in address:
        return int(dict(line.split() for line in netns.read("snmp6").splitlines())[f"Udp6{counter}"])
    return netns.snmp("Udp", counter)


def test_tcp_without_offloads(bench: Lab, wire: Wire) -> None:
    """One end without TSO, GSO and checksum offload: every segment is a frame of its own, and each is counted."""
    wire.a.netns.command("ethtool", "-K", "va", "tso", "off", "gso", "off", "tx", "off")
    before = wire.a.link.stats
    with Iperf3.serving(wire.b.netns, FAR4) as iperf3:
        end = iperf3.measure(wire.a.netns, "-n", str(VOLUME // 4))
        sent = wire.a.link.stats - before
        back = iperf3.measure(wire.a.netns, "-R", "-n", str(VOLUME // 4))
    assert transferred(end, "sum_sent") >= VOLUME // 4
    assert transferred(back, "sum_sent") >= VOLUME // 4
    assert sent.tx_packets >= transferred(end) // MSS > 1000
    assert sent.tx_bytes <= sent.tx_packets * FRAME_MAX
    assert_nothing_lost(bench, wire)


def test_tcp_in_super_frames(bench: Lab, wire: Wire) -> None:
    """With the offloads that a pair comes with, far fewer frames than segments cross it."""
    with Iperf3.serving(wire.b.netns, FAR4) as iperf3:
        iperf3.measure(wire.a.netns, "-n", str(VOLUME))
    stats = wire.a.link.stats
    assert stats.tx_packets < VOLUME // MSS // 4
    assert_nothing_lost(bench, wire)


def test_tcp_over_jumbo_frames(bench: Lab) -> None:
    spec = LinkSpec(mtu=9000)
    wire = bench.pair(bench.netns("a"), bench.netns("b"), spec, spec)
    wire.up()
    _, far = wire.addresses()
    with Iperf3.serving(wire.b.netns, far) as iperf3:
        report = iperf3.run(wire.a.netns, "-n", str(VOLUME))
    assert report["start"]["tcp_mss_default"] in (8948, 8960)  # with timestamps, or as iperf3 asks before them
    assert transferred(report["end"], "sum_sent") >= VOLUME
    assert_nothing_lost(bench, wire)


def test_sctp_as_on_kernel_veth(bench: Lab, wire: Wire) -> None:
    """Where the kernel has SCTP it crosses; where it has not, iperf3 says just what it says over kernel veth."""
    with contextlib.ExitStack() as stack:
        reference = stack.enter_context(make_lab(KernelVeth(bench.backend.home)))
        other = reference.pair(reference.netns("a"), reference.netns("b"))
        other.up()
        other.addresses()
        words = []
        for each in (other, wire):
            with Iperf3.serving(each.b.netns, FAR4) as iperf3:
                report = iperf3.run(each.a.netns, "--sctp", "-n", str(VOLUME // 16))
            words.append(report.get("error", ""))
            if not words[-1]:
                assert transferred(report["end"], "sum_sent") >= VOLUME // 16
    assert words[0] == words[1]
