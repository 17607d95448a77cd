"""Describe a frame by its headers in one line, as tcpdump does. Pure; every read is bounded by the data at hand."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

ETHERTYPES = {
    0x0800: "IPv4",
    0x0806: "ARP",
    0x86DD: "IPv6",
    0x8847: "MPLS",
    0x8863: "PPPoE discovery",
    0x8864: "PPPoE",
    0x888E: "EAPOL",
    0x88CC: "LLDP",
}
VLAN_TAGS = {0x8100: "VLAN", 0x88A8: "QinQ"}
PROTOCOLS = {1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 17: "UDP", 41: "IPv6-in-IP", 47: "GRE", 50: "ESP", 51: "AH"}
PROTOCOLS |= {58: "ICMPv6", 89: "OSPF", 103: "PIM", 112: "VRRP", 132: "SCTP"}
EXTENSIONS = {0, 43, 60}  # IPv6: hop-by-hop options, routing, destination options
FRAGMENT = 44
ICMP = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
ICMPV6 = {1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply"}
ICMPV6 |= {133: "router solicitation", 134: "router advertisement", 143: "multicast listener report"}
ICMPV6 |= {135: "neighbor solicitation", 136: "neighbor advertisement"}
TCP_FLAGS = ((0x02, "S"), (0x01, "F"), (0x04, "R"), (0x08, "P"), (0x20, "U"), (0x40, "E"), (0x80, "C"), (0x10, "."))

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_IPV4 = (1, 0x0800, 6, 4)
_ETH_HLEN = 14
_802_3_MAX = 1500  # a smaller EtherType is a length


def mac(data: bytes) -> str:
    """Return a MAC address as text, "02:00:00:00:00:01"."""
    return data.hex(":")


def summary(data: bytes) -> str:
    """Describe a frame, Ethernet header first: "IPv4 UDP 10.0.0.1:4000 > 10.0.0.2:53".

    data may end anywhere. What cannot be named is described by the MAC addresses and the EtherType.
    """
    if len(data) < _ETH_HLEN:
        return f"{len(data)} bytes, no Ethernet header" if data else "no Ethernet header"
    at, words = 12, []
    kind = int.from_bytes(data[at : at + 2])
    while kind in VLAN_TAGS and len(data) >= at + 6:
        words.append(f"{VLAN_TAGS[kind]} {int.from_bytes(data[at + 2 : at + 4]) & 0xFFF}")
        at += 4
        kind = int.from_bytes(data[at : at + 2])
    body = data[at + 2 :]
    text = {0x0800: _ipv4, 0x0806: _arp, 0x86DD: _ipv6}.get(kind, _other)(body)
    if text is None:
        name = "802.3" if kind <= _802_3_MAX else ETHERTYPES.get(kind, f"ethertype {kind:#06x}")
        text = f"{name} {mac(data[6:12])} > {mac(data[:6])}"
    return " ".join([*words, text])


def _other(_body: bytes) -> str | None:
    return None


def _arp(body: bytes) -> str | None:
    if len(body) < _ARP.size:
        return None
    *form, operation, sender, sender_ip, target, target_ip = _ARP.unpack_from(body)
    if tuple(form) != _ARP_IPV4:
        return None
    asked, told = IPv4Address(target_ip), IPv4Address(sender_ip)
    if operation == 1:
        return f"ARP who has {asked}, tell {told}" if asked != told else f"ARP announcement of {told}"
    if operation == 2:
        return f"ARP {told} is at {mac(sender)}, to {mac(target)}"
    return f"ARP operation {operation}"


def _ipv4(body: bytes) -> str | None:
    if len(body) < 20 or body[0] >> 4 != 4:
        return None
    source, target = str(IPv4Address(body[12:16])), str(IPv4Address(body[16:20]))
    offset = (int.from_bytes(body[6:8]) & 0x1FFF) * 8
    if offset:
        return f"IPv4 {_protocol(body[9])} {source} > {target}, fragment at {offset}"
    return "IPv4 " + _upper(body[9], body[(body[0] & 0xF) * 4 :], source, target)


def _ipv6(body: bytes) -> str | None:
    if len(body) < 40 or body[0] >> 4 != 6:
        return None
    source, target = str(IPv6Address(body[8:24])), str(IPv6Address(body[24:40]))
    following, at, fragment = body[6], 40, 0
    while following in EXTENSIONS | {FRAGMENT} and len(body) >= at + 8:
        if following == FRAGMENT:
            fragment = int.from_bytes(body[at + 2 : at + 4]) & ~7
            size = 8
        else:
            size = (body[at + 1] + 1) * 8
        following = body[at]
        at += size
        if fragment:
            return f"IPv6 {_protocol(following)} {source} > {target}, fragment at {fragment}"
    return "IPv6 " + _upper(following, body[at:], f"[{source}]", f"[{target}]")


def _upper(protocol: int, data: bytes, source: str, target: str) -> str:
    """Describe what an IP header carries. An IPv6 address is in brackets, which are kept before a port only."""
    name = _protocol(protocol)
    if protocol in (6, 17, 132) and len(data) >= 4:
        text = f"{name} {source}:{int.from_bytes(data[:2])} > {target}:{int.from_bytes(data[2:4])}"
        return text + (_tcp(data) if protocol == 6 else "")
    text = f"{name} {source.strip('[]')} > {target.strip('[]')}"
    kinds = {1: ICMP, 58: ICMPV6}.get(protocol)
    if kinds is None or not data:
        return text
    text += f" {kinds.get(data[0], f'type {data[0]}')}"
    if "echo" in kinds.get(data[0], "") and len(data) >= 8:
        text += f" id {int.from_bytes(data[4:6])} seq {int.from_bytes(data[6:8])}"
    return text


def _tcp(data: bytes) -> str:
    if len(data) < 14:
        return ""
    flags = "".join(letter for bit, letter in TCP_FLAGS if data[13] & bit)
    return f" [{flags or 'none'}] seq {int.from_bytes(data[4:8])} ack {int.from_bytes(data[8:12])}"


def _protocol(number: int) -> str:
    return PROTOCOLS.get(number, f"protocol {number}")
