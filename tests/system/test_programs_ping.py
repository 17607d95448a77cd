"""ping, arping, and echoes of every size."""

from __future__ import annotations

import re
import socket
import struct

import pytest

from tests.lib.lab import Lab, Wire
from tests.lib.programs import echoes, finish, ping
from tests.lib.sockets import exchange, udp_pair
from tests.lib.wait import DEADLINE_S
from vethd.model.spec import LinkSpec

NEAR4, FAR4 = "10.9.0.1", "10.9.0.2"
NEAR6, FAR6 = "fd09::1", "fd09::2"
FAR = pytest.mark.parametrize("far", [FAR4, FAR6], ids=["v4", "v6"])

IP_HLEN, IP6_HLEN, ICMP_HLEN, UDP_HLEN = 20, 40, 8, 8
MTU = 1500
THREE = ("-c", "3", "-i", "0.5")  # ping waits as long for the last answer as between two
WINDOW = 32  # echoes under way: few enough for the smallest of socket buffers
ICMP_ECHO, ICMP_ECHOREPLY = 8, 0
ICMP6_ECHO_REQUEST, ICMP6_ECHO_REPLY = 128, 129


def room(far: str, mtu: int = MTU) -> int:
    """Return the longest payload of an echo request that needs no fragments."""
    return mtu - ICMP_HLEN - (IP6_HLEN if ":" in far else IP_HLEN)


@FAR
def test_ping(wire: Wire, far: str) -> None:
    got = ping(wire.a.netns, "-c", "5", "-i", "0.2", far)
    assert (got.sent, got.received, got.loss_percent, got.duplicates) == (5, 5, 0, 0)


@FAR
def test_flood(wire: Wire, far: str) -> None:
    got = ping(wire.a.netns, "-f", "-c", "5000", far)
    assert (got.sent, got.received, got.duplicates) == (5000, 5000, 0)


@FAR
def test_flood_of_full_frames_both_ways(wire: Wire, far: str) -> None:
    """A pattern that ping itself compares, byte for byte, in what comes back."""
    done = finish(wire.a.netns, "ping", "-f", "-c", "2000", "-s", str(room(far)), "-p", "a55a", far)
    assert "2000 packets transmitted, 2000 received, 0% packet loss" in done.output
    assert "wrong data" not in done.output


@FAR
def test_sizes_around_every_limit(wire: Wire, far: str) -> None:
    full = room(far)
    for size in (0, 1, 7, 8, 15, 16, 17, 18, 19, 56, 100, full - 1, full):
        got = ping(wire.a.netns, "-M", "do", "-c", "1", "-s", str(size), far)
        assert (got.sent, got.received) == (1, 1), size


@FAR
def test_one_byte_more_than_the_mtu_is_refused(wire: Wire, far: str) -> None:
    done = finish(wire.a.netns, "ping", "-M", "do", "-c", "1", "-W", "0.1", "-s", str(room(far) + 1), far)
    assert done.code == 1
    assert re.search(r"\b1500\b", done.output), done.output


@FAR
def test_fragments(wire: Wire, far: str) -> None:
    """The longest packet there is: 45 frames, put together again at either end."""
    size = 65535 - IP_HLEN - ICMP_HLEN  # ping's own limit in v6, too
    assert echoes(wire.a.netns, 3, "-s", str(size), far) == 3


@FAR
def test_every_size_of_icmp(wire: Wire, far: str) -> None:
    """What ping sends, with the payload of every size, and every byte of it back."""
    six = ":" in far
    family, proto = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    sizes = list(range(room(far) + 1))
    got: dict[int, bytes] = {}
    with wire.a.netns.run(socket.socket, family, socket.SOCK_RAW, proto) as sock:
        sock.connect((far, 0))
        sock.settimeout(DEADLINE_S)
        for at in range(0, len(sizes), WINDOW):
            window = sizes[at : at + WINDOW]
            for size in window:
                sock.send(echo(ICMP6_ECHO_REQUEST if six else ICMP_ECHO, size))
            while len(got) < at + len(window):
                data = sock.recv(1 << 16)
                icmp = data if six else data[(data[0] & 15) * 4 :]
                if icmp[0] == (ICMP6_ECHO_REPLY if six else ICMP_ECHOREPLY):
                    got[struct.unpack_from("!H", icmp, 6)[0]] = icmp[ICMP_HLEN:]
    assert got == {size: pattern(size) for size in sizes}


@FAR
def test_every_size_of_udp(wire: Wire, far: str) -> None:
    """Both ways; up to a full frame and over it, into fragments."""
    near = NEAR6 if ":" in far else NEAR4
    with udp_pair(wire.a.netns, near, wire.b.netns, far) as (left, right):
        # the neighbours learn of each other first: what waits for that may be overtaken, on any network
        exchange(left, right, b"hello")
        for here, there in ((left, right), (right, left)):
            for at in range(0, MTU + 100, WINDOW):
                for size in range(at, at + WINDOW):
                    here.send(pattern(size))
                for size in range(at, at + WINDOW):
                    assert there.recv(1 << 16) == pattern(size)


def pattern(size: int) -> bytes:
    """Return size bytes that tell their size and place."""
    return bytes((size * 7 + n) & 0xFF for n in range(size))


def echo(kind: int, size: int) -> bytes:
    """Return an echo request whose sequence number is its size; ICMPv6's checksum is the kernel's to fill in."""
    message = struct.pack("!BBHHH", kind, 0, 0, 0x7E57, size) + pattern(size)
    if kind != ICMP_ECHO:
        return message
    words = struct.unpack(f"!{(size + 9) // 2}H", message + b"\0" * (size % 2))
    total = sum(words)
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    return message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]


def test_multicast(wire: Wire) -> None:
    """All hosts, in v4 and v6: the other end answers, once."""
    wire.b.netns.sysctl("net/ipv4/icmp_echo_ignore_broadcasts", "0")
    for args in (("-I", "va", "224.0.0.1"), ("-b", "10.9.0.255")):
        done = finish(wire.a.netns, "ping", "-n", *THREE, *args)
        assert done.output.count(f"bytes from {FAR4}") == 3, done.output
    done = finish(wire.a.netns, "ping", "-n", *THREE, "-I", NEAR6, "ff02::1%va")
    assert done.output.count(f"bytes from {FAR6}") == 3, done.output


def test_jumbo(bench: Lab) -> None:
    """MTU 9000 at both ends: to the byte."""
    spec = LinkSpec(mtu=9000)
    wire = bench.pair(bench.netns("a"), bench.netns("b"), spec, spec)
    wire.up()
    _, far = wire.addresses()
    full = room(far, 9000)
    assert echoes(wire.a.netns, 3, "-M", "do", "-s", str(full), far) == 3
    refused = finish(wire.a.netns, "ping", "-M", "do", "-c", "1", "-W", "0.1", "-s", str(full + 1), far)
    assert refused.code != 0
    assert re.search(r"\b9000\b", refused.output), refused.output


def test_arping(wire: Wire) -> None:
    """Address resolution by hand: the owner answers with his MAC, a free address stays silent."""
    done = finish(wire.a.netns, "arping", "-f", "-w", "20", "-I", "va", FAR4)
    assert done.code == 0, done.output
    assert f"from {FAR4} [{wire.b.link.address.upper()}]" in done.output
    # -D: is it somebody's already? Yes is a failure
    assert finish(wire.a.netns, "arping", "-D", "-w", "20", "-I", "va", FAR4).code == 1
    assert finish(wire.a.netns, "arping", "-D", "-c", "1", "-w", "1", "-I", "va", "10.9.0.99").code == 0
