"""What vethd sends over rtnetlink is what pyroute2, which knows every message, reads from it."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from vethd.kernel import message
from vethd.kernel.bridge import Bridges
from vethd.kernel.l3 import Route
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.shaping import Bucket, Shaper
from vethd.kernel.uapi import NLMSG_ERROR, RTAX_ADVMSS, RTAX_MTU, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWQDISC, RTM_NEWROUTE
from vethd.model.attachment import BridgeSpec
from vethd.model.spec import LinkSpec


class _Kernel:
    """A socket that keeps each request and acknowledges it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def recv(self, _size: int) -> bytes:
        return struct.pack("=IHHIIi", 20, NLMSG_ERROR, 0, 0, 0, 0)

    def close(self) -> None:
        pass


def sender(kind: Any) -> tuple[Any, _Kernel]:
    """Return an object of a class of sockets, and what it talks to."""
    rtnl, kernel = kind.__new__(kind), _Kernel()
    rtnl.sock, rtnl._seq = kernel, 0
    return rtnl, kernel


def read(codec: Any, kernel: _Kernel, kind: int) -> Any:
    """Return the one request, decoded."""
    (data,) = kernel.sent
    message = codec(data)
    message.decode()
    assert message["header"]["type"] == kind
    assert message["header"]["length"] == len(data)
    return message


def test_every_attribute_of_a_link() -> None:
    spec = LinkSpec(
        name="vé", mtu=1400, txqueuelen=7, group=3, alias="an alias", gso_max_size=60000, gso_max_segs=9,
        gro_max_size=50000, address="02:00:00:00:00:01", addrgenmode="none", up=True, arp=False,
    )  # fmt: skip
    rtnl, kernel = sender(Rtnl)
    rtnl.set_link(5, spec)
    link = read(ifinfmsg, kernel, RTM_NEWLINK)
    assert (link["index"], link["flags"], link["change"]) == (5, 0x81, 0x81)
    said = {key.removeprefix("IFLA_"): value for key, value in link["attrs"]}
    inet6 = said.pop("AF_SPEC").get_attr("AF_INET6")
    assert inet6.get_attr("IFLA_INET6_ADDR_GEN_MODE") == 1
    assert said == {
        "IFNAME": "vé", "MTU": 1400, "TXQLEN": 7, "GROUP": 3, "IFALIAS": "an alias", "GSO_MAX_SIZE": 60000,
        "GSO_MAX_SEGS": 9, "GRO_MAX_SIZE": 50000, "ADDRESS": "02:00:00:00:00:01",
    }  # fmt: skip


def test_move() -> None:
    rtnl, kernel = sender(Rtnl)
    rtnl.move(5, 9, name="va", new_ifindex=77)
    attrs = dict(read(ifinfmsg, kernel, RTM_NEWLINK)["attrs"])
    assert attrs == {"IFLA_NET_NS_FD": 9, "IFLA_IFNAME": "va", "IFLA_NEW_IFINDEX": 77}


@pytest.mark.parametrize("address", ["10.0.0.1/24", "fd00::1/64"])
def test_address(address: str) -> None:
    rtnl, kernel = sender(Bridges)
    own = ipaddress.ip_interface(address)
    rtnl.add_address(5, own, dad=False, prefix_route=False)
    message = read(ifaddrmsg, kernel, RTM_NEWADDR)
    assert (message["index"], message["prefixlen"]) == (5, own.network.prefixlen)
    assert message.get_attr("IFA_LOCAL") == message.get_attr("IFA_ADDRESS") == str(own.ip)
    assert message.get_attr("IFA_BROADCAST") == ("10.0.0.255" if own.version == 4 else None)
    assert message.get_attr("IFA_FLAGS") == (0x200 if own.version == 4 else 0x202)


def test_route() -> None:
    rtnl, kernel = sender(Bridges)
    dst, gw, src = (
        ipaddress.ip_network("10.1.0.0/16"),
        ipaddress.ip_address("10.0.0.1"),
        ipaddress.ip_address("10.0.0.2"),
    )
    metrics = ((RTAX_MTU, 1300), (RTAX_ADVMSS, 1200))
    rtnl.add_route(5, Route(dst, gw, src, priority=4, table=1000, metrics=metrics))
    message = read(rtmsg, kernel, RTM_NEWROUTE)
    fields = [message[key] for key in ("family", "dst_len", "proto", "scope", "type")]
    assert fields == [2, 16, 3, 0, 1]
    attrs = {key.removeprefix("RTA_"): value for key, value in message["attrs"]}
    assert dict(attrs.pop("METRICS")["attrs"]) == {"RTAX_MTU": 1300, "RTAX_ADVMSS": 1200}
    assert attrs == {
        "OIF": 5, "TABLE": 1000, "DST": "10.1.0.0", "GATEWAY": "10.0.0.1", "PREFSRC": "10.0.0.2", "PRIORITY": 4,
    }  # fmt: skip


def test_bridge_port() -> None:
    rtnl, kernel = sender(Bridges)
    rtnl.set_port(5, BridgeSpec(name="br", hairpin=True, isolated=True))
    info = read(ifinfmsg, kernel, RTM_NEWLINK).get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge"
    own = dict(info.get_attr("IFLA_INFO_SLAVE_DATA")["attrs"])
    assert own == {"IFLA_BRPORT_MODE": 1, "IFLA_BRPORT_ISOLATED": 1}


def test_token_bucket() -> None:
    rtnl, kernel = sender(Shaper)
    rtnl.shape(5, Bucket(rate=1_000_000, burst=20_000))
    message = read(tcmsg, kernel, RTM_NEWQDISC)
    assert (message["index"], message["parent"], message["handle"]) == (5, 0xFFFFFFFF, 1 << 16)
    parms = message.get_nested("TCA_OPTIONS", "TCA_TBF_PARMS")
    assert (parms["rate"], parms["limit"], parms["peak"]) == (1_000_000, 45_000, 0)


@pytest.mark.parametrize("address", ["02:00:00:00:00:0c", "2:0:0:0:0:c", "02:0:00:0:00:0C"])
def test_a_mac_address_with_short_parts(address: str) -> None:
    """As ip(8), model.spec and a .netdev file take it."""
    assert list(message.attributes(message.mac(1, address))) == [(1, bytes([2, 0, 0, 0, 0, 12]))]
