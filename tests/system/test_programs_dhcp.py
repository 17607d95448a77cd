"""Addresses that a real server hands out across a pair: DHCP, router advertisements and neighbour discovery."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Any

from tests.lib.lab import End, Lab, Wire
from tests.lib.netns import Netns
from tests.lib.programs import echoes, finish, ping, running
from tests.lib.wait import wait_until

SERVER4, SERVER6 = "192.168.77.1", "fd77::1"
LEASE_S = 3600

CLIENT_SCRIPT = """#!/bin/sh
# what udhcpc runs: $1 says what happened, the variables what the server said
case $1 in
deconfig) ip link set "$interface" up ;;
bound)
  ip addr add "$ip/$mask" dev "$interface"
  ip route add default via "$router"
  echo "$ip|$mask|$router|$dns|$domain|$lease|$serverid" >"$RECORD.new"
  mv "$RECORD.new" "$RECORD"
  ;;
esac
"""


def dnsmasq(directory: Path, *args: str) -> list[str]:
    """Return the command of a server that touches nothing of the machine's own."""
    common = ["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--port=0", "--user=root"]
    files = [f"--pid-file={directory}/pid", f"--dhcp-leasefile={directory}/leases"]
    return ["dnsmasq", *common, *files, "--interface=va", "--bind-interfaces", *args]


def addresses(end: End, family: str) -> list[Any]:
    """Return an end's addresses, as `ip` tells them."""
    found = json.loads(end.netns.command("ip", "-j", family, "addr", "show", "dev", end.name))
    return [info for link in found for info in link.get("addr_info", [])]


def test_dhcp(bench: Lab, tmp_path: Path) -> None:
    """Discover, offer, request, ack: broadcasts by raw sockets, then a lease, an address and a route that work."""
    wire = bench.pair(bench.netns("srv"), bench.netns("cli"))
    wire.up()
    wire.a.address(f"{SERVER4}/24")
    script, record = tmp_path / "script", tmp_path / "lease"
    script.write_text(CLIENT_SCRIPT)
    script.chmod(0o755)
    server = dnsmasq(
        tmp_path,
        f"--dhcp-range=192.168.77.50,192.168.77.60,255.255.255.0,{LEASE_S}",
        "--dhcp-option=option:router,192.168.77.1",
        "--dhcp-option=option:dns-server,192.168.77.1",
        "--domain=lab.test",
        "--dhcp-authoritative",
        "--no-ping",
    )
    client = ["env", f"RECORD={record}", "udhcpc", "-i", "vb", "-f", "-q", "-n", "-t", "10", "-T", "1"]
    with running(wire.a.netns, *server, ready="DHCP, IP range") as daemon:
        done = finish(wire.b.netns, *client, "-s", str(script))
        assert done.code == 0, f"{done.output}\n{daemon.output()}"
        said = daemon.output()
    address, mask, router, dns, domain, lease, server_id = record.read_text().strip().split("|")
    assert address in [f"192.168.77.{n}" for n in range(50, 61)]
    assert (mask, router, dns, domain) == ("24", SERVER4, SERVER4, "lab.test")
    assert (int(lease), server_id) == (LEASE_S, SERVER4)
    for step in ("DHCPDISCOVER", "DHCPOFFER", "DHCPREQUEST", "DHCPACK"):
        assert re.search(rf"{step}\(va\).*{wire.b.link.address}", said), said
    # the server's books say the same, under the client's MAC
    assert f"{wire.b.link.address} {address} " in (tmp_path / "leases").read_text()
    assert [info["local"] for info in addresses(wire.b, "-4")] == [address]
    wire.a.netns.ip("addr add 203.0.113.7/32 dev lo")
    assert echoes(wire.b.netns, 3, "203.0.113.7") == 3  # by the route of the lease


def test_slaac(bench: Lab, tmp_path: Path) -> None:
    """A router advertises a prefix; the other end makes itself an address and a route of it."""
    wire = bench.pair(bench.netns("srv", ipv6=True), bench.netns("cli", ipv6=True))
    wire.a.netns.sysctl("net/ipv6/conf/va/accept_dad", "0")  # a router who has been there for long
    wire.b.netns.sysctl("net/ipv6/conf/vb/router_solicitation_delay", "0")
    wire.a.up()
    wire.a.address(f"{SERVER6}/64")
    with running(wire.a.netns, *dnsmasq(tmp_path, "--enable-ra", "--dhcp-range=fd77::,ra-only,64"), ready="router adv"):
        wire.b.up()  # and it asks for routers
        wire.wait_carrier()

        def configured() -> list[Any]:
            found = [info for info in addresses(wire.b, "-6") if info["scope"] == "global"]
            return [info for info in found if not info.get("tentative")]

        got = wait_until(configured, what="an address by SLAAC")[0]
    assert got["local"] == eui64("fd77::", wire.b.link.address)
    assert got["prefixlen"] == 64
    routes = json.loads(wire.b.netns.command("ip", "-j", "-6", "route", "show", "default"))
    assert [(route["gateway"], route["dev"], route["protocol"]) for route in routes] == [
        (eui64("fe80::", wire.a.link.address), "vb", "ra")
    ]
    assert echoes(wire.b.netns, 3, SERVER6) == 3


def test_neighbour_discovery(wire: Wire) -> None:
    """Solicitations to multicast groups find the neighbour; its death is noticed, and its coming back."""
    assert ping(wire.a.netns, "-c", "1", "fd09::2").received == 1
    assert neighbour(wire.a.netns, "fd09::2") == wire.b.link.address
    assert ping(wire.a.netns, "-c", "1", "10.9.0.2").received == 1
    assert neighbour(wire.a.netns, "10.9.0.2") == wire.b.link.address
    wire.b.set("address 02:00:00:00:77:02")
    for address in ("fd09::2", "10.9.0.2"):
        wire.a.netns.ip(f"neigh flush to {address} dev va")
        assert ping(wire.a.netns, "-c", "1", address).received == 1
        assert neighbour(wire.a.netns, address) == "02:00:00:00:77:02"


def neighbour(netns: Netns, address: str) -> str:
    """Return the MAC that a namespace knows for an address."""
    found = json.loads(netns.command("ip", "-j", "neigh", "show", "to", address))
    assert len(found) == 1, found
    return str(found[0].get("lladdr"))


def eui64(prefix: str, mac: str) -> str:
    """Return the address that a MAC makes in a prefix of 64 bits (RFC 4291, appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    host = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int.from_bytes(host, "big")))
