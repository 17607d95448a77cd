"""Router advertisements, as somebody with CAP_NET_RAW in a container sends them to become its neighbours' router."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lib.netns import Netns
from tests.lib.wait import wait_until

PREFIX = "2001:db8:bad::"
_ALL_NODES = "ff02::1"
_ADVERTISEMENT = 134
_ROUTER_S, _VALID_S, _PREFERRED_S = 1800, 3600, 1800
_ON_LINK_AND_AUTONOMOUS = 0xC0
_ETH_P_IPV6 = 0x86DD
_ICMPV6 = socket.IPPROTO_ICMPV6


def advertisement() -> bytes:
    """Write the ICMPv6 of an advertisement: a default router, and a prefix to make addresses of. No checksum yet."""
    router = struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 64, 0, _ROUTER_S, 0, 0)
    times = struct.pack("!BBIII", 64, _ON_LINK_AND_AUTONOMOUS, _VALID_S, _PREFERRED_S, 0)
    return router + bytes([3, 4]) + times + socket.inet_pton(socket.AF_INET6, PREFIX)


def advertise(netns: Netns, ifname: str) -> None:
    """Send one advertisement from the link's own link-local address, once that can be used."""

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, _ICMPV6) as sock:
            index = socket.if_nametoindex(ifname)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)

            def sent() -> bool:
                try:
                    sock.sendto(advertisement(), (_ALL_NODES, 0, 0, index))
                except OSError:  # no address yet
                    return False
                return True

            wait_until(sent, what="a router advertisement sent")

    netns.run(send)


def frame() -> bytes:
    """Write a whole frame with an advertisement of a router of its own."""
    source = socket.inet_pton(socket.AF_INET6, "fe80::bad")
    target = socket.inet_pton(socket.AF_INET6, _ALL_NODES)
    message = advertisement()
    pseudo = source + target + struct.pack("!II", len(message), _ICMPV6) + message
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
    head = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + source + target
    ethernet = bytes.fromhex("333300000001 020000000bad") + struct.pack("!H", _ETH_P_IPV6)
    return ethernet + head + message


@contextmanager
def flooding(netns: Netns, ifname: str) -> Iterator[None]:
    """Send advertisements without end, from the instant at which the link, which need not be there yet, takes them."""
    sock = netns.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
    over = threading.Event()

    def flood() -> None:
        data = frame()
        while not over.is_set():
            try:
                sock.sendto(data, (ifname, _ETH_P_IPV6))
            except OSError:  # not there, or down
                continue

    thread = threading.Thread(target=flood, name="advertiser")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sock.close()


def received(netns: Netns) -> int:
    """Count the advertisements that a namespace received, whatever it made of them."""
    rows = dict(line.split() for line in netns.read("snmp6").splitlines())
    return int(rows["Icmp6InRouterAdvertisements"])
