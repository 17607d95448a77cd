"""A frame in one line: what is said of known frames, and that no bytes break it."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lib.frames import ETH_P_IP, ether
from vethd.model.headers import summary

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
A4, B4 = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2")
A6, B6 = socket.inet_pton(socket.AF_INET6, "fd00::1"), socket.inet_pton(socket.AF_INET6, "fd00::2")
PORTS = (4000).to_bytes(2) + (53).to_bytes(2)
SYN = PORTS + (7).to_bytes(4) + bytes(4) + bytes([0x50, 0x02]) + bytes(6)


def ipv4(protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    head = bytes([0x45, 0, 0, 0, 0, 0]) + (fragment // 8).to_bytes(2) + bytes([64, protocol, 0, 0]) + A4 + B4
    return ether(head + payload, proto=ETH_P_IP)


def ipv6(following: int, payload: bytes) -> bytes:
    return ether(bytes([0x60, 0, 0, 0, 0, 0, following, 64]) + A6 + B6 + payload, proto=ETH_P_IPV6)


def arp(operation: int, sender: bytes = A4) -> bytes:
    form = bytes([0, 1, 8, 0, 6, 4]) + operation.to_bytes(2)
    return ether(form + bytes([2, 0, 0, 0, 0, 1]) + sender + bytes([2, 0, 0, 0, 0, 2]) + B4, proto=ETH_P_ARP)


KNOWN = {
    "IPv4 UDP 10.0.0.1:4000 > 10.0.0.2:53": ipv4(17, PORTS + bytes(4)),
    "IPv4 TCP 10.0.0.1:4000 > 10.0.0.2:53 [S] seq 7 ack 0": ipv4(6, SYN),
    "IPv4 TCP 10.0.0.1 > 10.0.0.2": ipv4(6, b""),
    "IPv4 ICMP 10.0.0.1 > 10.0.0.2 echo request id 1 seq 2": ipv4(1, bytes([8, 0, 0, 0, 0, 1, 0, 2])),
    "IPv4 ICMP 10.0.0.1 > 10.0.0.2 type 42": ipv4(1, bytes([42])),
    "IPv4 UDP 10.0.0.1 > 10.0.0.2, fragment at 1480": ipv4(17, PORTS, 1480),
    "IPv4 protocol 200 10.0.0.1 > 10.0.0.2": ipv4(200, PORTS),
    "IPv6 UDP [fd00::1]:4000 > [fd00::2]:53": ipv6(17, PORTS),
    "IPv6 ICMPv6 fd00::1 > fd00::2 neighbor solicitation": ipv6(58, bytes([135, 0])),
    "IPv6 ICMPv6 fd00::1 > fd00::2 multicast listener report": ipv6(0, bytes([58, 0]) + bytes(6) + bytes([143])),
    "IPv6 UDP fd00::1 > fd00::2, fragment at 8": ipv6(44, bytes([17, 0, 0, 8]) + bytes(4) + PORTS),
    "ARP who has 10.0.0.2, tell 10.0.0.1": arp(1),
    "ARP announcement of 10.0.0.2": arp(1, B4),
    "ARP 10.0.0.1 is at 02:00:00:00:00:01, to 02:00:00:00:00:02": arp(2),
    "VLAN 7 IPv4 UDP 10.0.0.1:4000 > 10.0.0.2:53": ipv4(17, PORTS)[:12] + bytes([0x81, 0, 0, 7]) + ipv4(17, PORTS)[12:],
    "LLDP 02:00:00:00:aa:01 > 02:00:00:00:aa:02": ether(b"", proto=0x88CC),
    "ethertype 0x88b5 02:00:00:00:aa:01 > 02:00:00:00:aa:02": ether(b"x"),
    "802.3 02:00:00:00:aa:01 > 02:00:00:00:aa:02": ether(b"", proto=3),
    "IPv4 02:00:00:00:aa:01 > 02:00:00:00:aa:02": ether(b"\x45", proto=ETH_P_IP),
    "13 bytes, no Ethernet header": bytes(13),
    "no Ethernet header": b"",
}


@pytest.mark.parametrize("text", KNOWN)
def test_known(text: str) -> None:
    assert summary(KNOWN[text]) == text


@pytest.mark.parametrize("data", KNOWN.values(), ids=KNOWN)
def test_cut_anywhere(data: bytes) -> None:
    for length in range(len(data)):
        assert summary(data[:length])


@given(
    st.sampled_from([ETH_P_IP, ETH_P_IPV6, ETH_P_ARP, 0x8100]),
    st.binary(max_size=128),
    st.sampled_from([b"E", b"`", b""]),
)
def test_anything(proto: int, body: bytes, first: bytes) -> None:
    assert "\n" not in summary(ether(first + body, proto=proto))
