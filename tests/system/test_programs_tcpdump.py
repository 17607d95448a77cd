"""tcpdump: both ends see the same frames, and a receiver behind a router sees valid checksums."""

from __future__ import annotations

import contextlib
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.lib.backends import Vethd
from tests.lib.frames import ETH_HLEN, csum, ether, mac
from tests.lib.lab import End, Lab, Wire
from tests.lib.programs import Program, echoes, finish, running
from tests.lib.sockets import tcp_transfer, udp_pair
from tests.lib.wait import wait_until

PCAP_MAGIC = 0xA1B2C3D4
DLT_EN10MB = 1
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
TCP, UDP, ICMP6 = 6, 17, 58
CSUM_AT = {TCP: 16, UDP: 6, ICMP6: 2}
PAYLOAD = bytes(range(256)) * 1024
BEGIN, END, LAST = b"begin" * 10, b"the end" * 10, b"nobody reads on" * 4


@contextlib.contextmanager
def capturing(end: End, file: Path) -> Iterator[Program]:
    """Run tcpdump on an end while the body runs; all that it saw is in the file after that."""
    # -B: a buffer of 32 MiB, as nobody reads along while the machine is busy
    argv = ["tcpdump", "-i", end.name, "-n", "-w", str(file), "-U", "-s", "0", "-B", "32768", "--immediate-mode", "-Z"]
    with running(end.netns, *argv, "root", ready="listening on") as tcpdump:
        yield tcpdump
        with end.packet() as sock:
            sock.send(ether(LAST, src=end.link.address))
        # interrupted, it forgets what it has not read yet
        wait_until(lambda: LAST in file.read_bytes(), what="tcpdump has seen the last frame")
        done = tcpdump.end(signal.SIGINT)
    assert done.code == 0, done.output
    assert "\n0 packets dropped by kernel" in done.output, done.output


def frames(file: Path) -> list[bytes]:
    """Read the frames of a pcap file; only whole ones count. Raises AssertionError for a cut one."""
    data = file.read_bytes()
    magic, _, _, _, _, _, linktype = struct.unpack_from("=IHHiIII", data)
    assert (magic, linktype) == (PCAP_MAGIC, DLT_EN10MB)
    at, found = 24, []
    while at + 16 <= len(data):
        _, _, kept, length = struct.unpack_from("=IIII", data, at)
        assert kept == length
        found.append(data[at + 16 : at + 16 + kept])
        at += 16 + kept
    assert at == len(data)
    return found


class Transport(NamedTuple):
    """An IP packet's upper half: protocol, segment, and the sum of its pseudo header."""

    proto: int
    segment: bytes
    pseudo: int


def transport(frame: bytes) -> Transport | None:
    """Return the upper half of an unfragmented IP packet; None for anything else."""
    ethertype, packet = int.from_bytes(frame[12:14], "big"), frame[ETH_HLEN:]
    if ethertype == ETH_P_IP and not int.from_bytes(packet[6:8], "big") & 0x3FFF:
        packet = packet[: int.from_bytes(packet[2:4], "big")]
        assert csum(packet[: (packet[0] & 15) * 4]) == 0xFFFF
        proto, addresses, segment = packet[9], packet[12:20], packet[(packet[0] & 15) * 4 :]
    elif ethertype == ETH_P_IPV6:
        proto, addresses, segment = packet[6], packet[8:40], packet[40:]
    else:
        return None
    return Transport(proto, segment, csum(addresses + struct.pack("!HH", proto, len(segment))))


def checksum_ok(frame: bytes) -> bool:
    """Return whether a checksum is right: whole, or, being left for a receiver to complete, its pseudo header's."""
    found = transport(frame)
    if found is None or found.proto not in CSUM_AT:
        return True
    at = CSUM_AT[found.proto]
    partial = int.from_bytes(found.segment[at : at + 2], "big") == found.pseudo
    return partial or csum(found.segment, found.pseudo) == 0xFFFF


def traffic(wire: Wire) -> None:
    """Send something of everything across."""
    assert echoes(wire.a.netns, 20, "-s", "1400", "10.9.0.2") == 20
    assert echoes(wire.b.netns, 20, "fd09::1") == 20
    with udp_pair(wire.a.netns, "10.9.0.1", wire.b.netns, "10.9.0.2") as (left, right):
        for size in range(1, 5000, 97):
            left.send(PAYLOAD[:size])
            assert right.recv(1 << 16) == PAYLOAD[:size]
    assert tcp_transfer(wire.a.netns, wire.b.netns, "10.9.0.2", PAYLOAD) == PAYLOAD
    assert tcp_transfer(wire.b.netns, wire.a.netns, "10.9.0.1", PAYLOAD) == PAYLOAD


def test_both_ends_see_the_same(bench: Lab, wire: Wire, tmp_path: Path) -> None:
    """Every frame that one end sent is received by the other, once, in its order, to the byte."""
    if isinstance(bench.backend, Vethd):  # coalesced frames would be one to the receiver: docs/differences.md
        daemon = bench.backend.daemon
        (pair,) = (it["id"] for it in daemon.pairs() if it["spec"]["netns"] == wire.a.netns.name)
        assert daemon.request("PATCH", f"/v1/pairs/{pair}", b'{"gro": false}')[0] == 200
    near_file, far_file = tmp_path / "near", tmp_path / "far"
    with capturing(wire.a, near_file), capturing(wire.b, far_file):
        mark(wire, BEGIN)
        traffic(wire)
        mark(wire, END)
        wire.wait_balanced()
    near, far = frames(near_file), frames(far_file)
    for end in (wire.a, wire.b):
        seen_here, seen_there = (between_marks(seen, end) for seen in (near, far))
        assert len(seen_here) > 40
        assert seen_here == seen_there
    assert all(checksum_ok(frame) for frame in near)
    assert PAYLOAD in b"".join(payload(frame) for frame in between_marks(far, wire.a))


def mark(wire: Wire, word: bytes) -> None:
    """Send a frame from either end: the kernel has a word of its own to say (MLD) before and after."""
    for end in (wire.a, wire.b):
        with end.packet() as sock:
            sock.send(ether(word, src=end.link.address))


def between_marks(seen: list[bytes], end: End) -> list[bytes]:
    """Return what an end sent between its marks."""
    sent = [frame for frame in seen if frame[6:12] == mac(end.link.address)]
    begin, stop = (sent.index(ether(word, src=end.link.address)) for word in (BEGIN, END))
    return sent[begin:stop]


def payload(frame: bytes) -> bytes:
    """Return what a TCP segment carries."""
    found = transport(frame)
    return found.segment[(found.segment[12] >> 4) * 4 :] if found is not None and found.proto == TCP else b""


def test_checksums_behind_a_router(bench: Lab, tmp_path: Path) -> None:
    """What was left to be completed at the first pair is completed where the router needs it, and is right.

        a ==== r0 router r1 (no checksum offload) ==== b: tcpdump

    tcpdump itself is the judge, and so is our own reading of what it wrote.
    """
    a, router, b = bench.netns("a"), bench.netns("r"), bench.netns("b")
    router.sysctl("net/ipv4/ip_forward", "1")
    left, right = bench.pair(a, router), bench.pair(router, b)
    # names are per namespace: va is a's end of the left pair and the router's of the right one
    for wire in (left, right):
        wire.up()
    left.addresses("10.1.0")
    right.addresses("10.2.0")
    a.ip("route add default via 10.1.0.2")
    b.ip("route add default via 10.2.0.1")
    router.command("ethtool", "-K", right.a.name, "tx", "off")
    file = tmp_path / "received"
    with capturing(right.b, file):
        assert tcp_transfer(a, b, "10.2.0.2", PAYLOAD) == PAYLOAD
        with udp_pair(a, "10.1.0.1", b, "10.2.0.2") as (here, there):
            for size in (0, 1, 2, 700, 1471, 1472, 3000):
                here.send(PAYLOAD[:size])
                assert there.recv(1 << 16) == PAYLOAD[:size]
    source = right.a.link.address
    forwarded = [frame for frame in frames(file) if frame[6:12] == mac(source) and transport(frame)]
    assert len(forwarded) > len(PAYLOAD) // 1448
    for frame in forwarded:
        found = transport(frame)
        assert found is not None
        assert csum(found.segment, found.pseudo) == 0xFFFF
    said = finish(b, "tcpdump", "-n", "-vv", "-r", str(file), "ether", "src", source)
    assert said.code == 0
    for word in ("incorrect", "bad udp cksum", "bad cksum", "[bad"):
        assert word not in said.output, [line for line in said.output.splitlines() if word in line][:3]
    assert said.output.count("(correct)") + said.output.count("udp sum ok") >= len(forwarded) - 8
