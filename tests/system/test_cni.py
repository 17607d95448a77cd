"""vethd-cni beside the reference plugins of Debian: of the same configurations, results and traces are compared."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.lib import cni
from tests.lib.cni import BRIDGE, REFERENCE, SUBNET, Case, Container, case_fixture, ip_json
from tests.lib.netns import Netns
from tests.lib.sockets import ping, tcp_transfer, udp_socket
from tests.lib.wait import wait_until

pytestmark = pytest.mark.heavy
__all__ = ["case_fixture"]

DEFAULT = [{"dst": "0.0.0.0/0"}]
V6 = "fd80::/64"
STATIC = {
    "type": "static",
    "addresses": [
        {"address": "10.80.0.77/24", "gateway": "10.80.0.1"},
        {"address": "fd80::77/64", "gateway": "fd80::1"},
    ],
    "routes": [{"dst": "10.99.0.0/16"}, {"dst": "10.98.0.0/16", "gw": "10.80.0.9"}, {"dst": "::/0"}],
}


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without what is drawn by lot."""

    def link(one: dict[str, Any]) -> tuple[str, bool, set[str]]:
        return one["name"].rstrip("0123456789abcdef"), bool(one["mac"]), set(one)

    return result | {"interfaces": [link(one) for one in result["interfaces"]]}


def same_containers(ours: Container, theirs: Container) -> None:
    """Compare what is in two containers."""
    assert cni.addresses(ours.netns, "eth0") == cni.addresses(theirs.netns, "eth0")
    assert cni.routes(ours.netns, "eth0") == cni.routes(theirs.netns, "eth0")
    links = [ip_json(one.netns, "link", "show", "dev", "eth0")[0] for one in (ours, theirs)]
    assert links[0]["mtu"] == links[1]["mtu"]
    assert links[0]["operstate"] == links[1]["operstate"] == "UP"


@pytest.mark.parametrize(
    "said",
    [
        {"isGateway": True, "ipMasq": True, "hairpinMode": True},
        {"isDefaultGateway": True, "routes": []},
        {"isDefaultGateway": True, "more": V6, "routes": [], "dns": {"nameservers": ["10.80.0.53"]}},
        {"promiscMode": True, "mtu": 1400},
        {"isGateway": True, "more": V6, "routes": [*DEFAULT, {"dst": "::/0"}]},
        {"isGateway": True, "mtu": 9000, "ipam": STATIC},
        {"ipam": {}},
    ],
    ids=["podman", "default-gateway", "dual-default", "promisc-mtu", "dual", "static", "layer-2"],
)
def test_bridge(case: Case, said: dict[str, Any]) -> None:
    said = dict(said)
    more, routes = said.pop("more", None), said.pop("routes", None)
    conf = case.conf(ipam=case.ipam(*([more] if more else []), routes=routes))
    (ours, result), (theirs, reference) = case.both(conf | said)
    assert plain(result) == plain(reference)
    same_containers(ours, theirs)
    host, other = case.ours.netns, case.theirs.netns
    assert cni.addresses(host, BRIDGE) == cni.addresses(other, BRIDGE)
    assert cni.routes(host, BRIDGE) == cni.routes(other, BRIDGE)
    assert cni.bridge(host, BRIDGE) == cni.bridge(other, BRIDGE)
    ports = [(host, result["interfaces"][1]["name"]), (other, reference["interfaces"][1]["name"])]
    assert cni.port(*ports[0]) == cni.port(*ports[1])
    for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        assert host.command("cat", f"/proc/sys/{key}") == other.command("cat", f"/proc/sys/{key}")
    macs = {link["name"]: link["mac"] for link in result["interfaces"]}
    for netns in (host, ours.netns):
        for link in ip_json(netns, "link"):
            assert macs.get(link["ifname"], link["address"]) == link["address"]
    for ip in result.get("ips", []) if said.get("isGateway") else []:
        ping(host, ip["gateway"], ours.netns, ip["address"].partition("/")[0])
    ours.delete(conf | said)
    case.assert_nothing_left(ours)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_shape_of_each_version(case: Case, version: str) -> None:
    conf = case.conf(cniVersion=version, isGateway=True, ipam=case.ipam(V6))
    (ours, result), (_, reference) = case.both(conf)
    assert plain(result) == plain(reference)
    ours.delete(conf)


@pytest.mark.parametrize("more", [(), (V6,)], ids=["v4", "dual"])
def test_ptp(case: Case, more: tuple[str, ...]) -> None:
    conf = case.conf(mode="ptp", ipMasq=True, mtu=1400, ipam=case.ipam(*more))
    (ours, result), (theirs, reference) = case.both(conf, "ptp")
    assert plain(result) == plain(reference)
    same_containers(ours, theirs)
    host, other = result["interfaces"][0]["name"], reference["interfaces"][0]["name"]
    assert cni.addresses(case.ours.netns, host) == cni.addresses(case.theirs.netns, other)
    assert cni.routes(case.ours.netns, host) == cni.routes(case.theirs.netns, other)
    for ip in result["ips"]:
        ping(case.ours.netns, ip["gateway"], ours.netns, ip["address"].partition("/")[0])
    second = case.container()
    second.add(conf)
    ping(second.netns, f"{SUBNET}.3", ours.netns, f"{SUBNET}.2")
    for container in (ours, second):
        container.delete(conf)
    case.assert_nothing_left(ours)


def seen_as(container: Container, there: Netns, address: str) -> str:
    """Return the source of what a container sends there; what is answered comes back to it."""
    with udp_socket(container.netns, "0.0.0.0") as near, udp_socket(there, address) as far:
        near.sendto(b"who am I", far.getsockname())
        data, source = far.recvfrom(100)
        far.sendto(data, source)
        assert near.recvfrom(100) == (data, far.getsockname())
    return str(source[0])


NFT_FAILS = {
    "iptables": "#!/bin/sh\necho no netlink >&2\nexit 1\n",
    "iptables, for a kernel without nft's masquerading": """#!/bin/sh
        script=$(cat)
        case $script in *masquerade*) echo no masquerading >&2; exit 1;; esac
        printf '%s\n' "$script" | /usr/sbin/nft "$@"
        """,
}


@pytest.mark.parametrize("tool", ["nft", *NFT_FAILS])
def test_masquerading(case: Case, tool: str) -> None:
    """A host that has no route to the container answers the host's address; traffic in the subnet keeps its own."""
    outside = case.lab.netns("outside")
    case.ours.netns.ip(f"link add out type veth peer name in netns {outside.name}", "address add 192.0.2.1/24 dev out")
    case.ours.netns.ip("link set out up")
    outside.ip("address add 192.0.2.2/24 dev in", "link set in up")
    if tool in NFT_FAILS:
        tools = case.directory / "tools"
        tools.mkdir()
        (tools / "nft").write_text(NFT_FAILS[tool])
        (tools / "nft").chmod(0o755)
        case.ours.environ = {**case.ours.environ, "PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"}
    conf = case.conf(isGateway=True, ipMasq=True)
    ours, neighbour = case.container(), case.container()
    ours.add(conf)
    neighbour.add(conf)
    assert seen_as(ours, outside, "192.0.2.2") == "192.0.2.1"
    assert seen_as(ours, neighbour.netns, f"{SUBNET}.3") == f"{SUBNET}.2"
    assert ("VETHD-" if tool in NFT_FAILS else "vethd-cni/net/") in case.rules()
    for container in (ours, neighbour):
        container.delete(conf)
    case.ours.netns.ip("link delete out")
    case.assert_nothing_left(ours)


def test_mac_is_the_one_asked_for(case: Case) -> None:
    conf, mac = case.conf(), "02:00:00:00:00:77"
    said = [
        (conf, {"args": "IgnoreUnknown=1;MAC=" + mac}),
        (conf | {"args": {"cni": {"mac": mac}}}, {}),
        (
            conf | {"runtimeConfig": {"mac": mac}, "args": {"cni": {"mac": "02:00:00:00:00:01"}}},
            {"args": "IgnoreUnknown=1;MAC=bad"},
        ),
    ]
    for number, (one, variables) in enumerate(said):
        container = case.container()
        result = container.add(one, f"eth{number}", **variables)
        assert result["interfaces"][2]["mac"] == mac
        assert ip_json(container.netns, "link", "show", "dev", f"eth{number}")[0]["address"] == mac
        container.delete(one, f"eth{number}", **variables)


def test_dns_is_ipams_unless_the_network_has_its_own(case: Case) -> None:
    dns = {"nameservers": ["10.80.0.1"], "search": ["example.org"]}
    conf = case.conf(ipam=STATIC | {"dns": dns})
    container = case.container()
    assert container.add(conf)["dns"] == dns
    container.delete(conf)
    own = {"nameservers": ["10.80.0.9"]}
    assert container.add(conf | {"dns": own})["dns"] == own
    container.delete(conf)


def test_bridge_that_is_there(case: Case) -> None:
    """It is taken as it is; a gateway address that it has not is refused, unless forced."""
    conf = case.conf(isGateway=True)
    first = case.container()
    first.add(conf)
    other = conf | {"ipam": case.ipam() | {"ranges": [[{"subnet": "10.81.0.0/24"}]]}}
    second = case.container()
    refused = second.call("ADD", other)
    assert refused.code == 100
    assert "10.80.0.1/24" in refused.body["msg"]
    assert second.netns.names() == set()
    assert case.leased() == {f"{SUBNET}.2"}
    second.add(other | {"forceAddress": True})
    assert [address[1] for address in cni.addresses(case.ours.netns, BRIDGE)] == ["10.81.0.1"]
    for container in (first, second):
        container.delete(conf)
    case.ours.netns.ip(f"link delete {BRIDGE}", f"link add {BRIDGE} type veth peer name other")
    refused = first.call("ADD", conf)
    assert "not a bridge" in refused.body["msg"]
    case.ours.netns.ip(f"link delete {BRIDGE}")
    case.assert_nothing_left(first)


MAPPING = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
CHAINED: list[dict[str, Any]] = [
    {"type": "portmap", "runtimeConfig": {"portMappings": [MAPPING]}},
    {"type": "firewall", "ingressPolicy": "same-bridge"},
    {
        "type": "tuning",
        "mac": "02:00:00:00:00:99",
        "mtu": 1300,
        "promisc": True,
        "allmulti": True,
        "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"},
    },
]


def add_chain(container: Container, chain: list[dict[str, Any]]) -> dict[str, Any]:
    """ADD one after the other, each given the result of the one before."""
    result: dict[str, Any] = {}
    for conf in chain:
        result = container.add(conf | ({"prevResult": result} if result else {}))
    return result


def test_chain_of_plugins(case: Case) -> None:
    """What portmap, firewall and tuning do works on what ADD gave; CHECK says what it says after the reference."""
    head = case.conf(cniVersion="0.4.0", isGateway=True, ipMasq=True)
    checked, tuned = [], []
    for host in (case.theirs, case.ours):
        base = {"cniVersion": "0.4.0", "name": "net"}
        chain = [case.own(head, host), *(base | conf for conf in CHAINED)]
        container = case.container(host)
        result = add_chain(container, chain)
        assert result["interfaces"][2]["mac"] == "02:00:00:00:00:99"
        link = ip_json(container.netns, "link", "show", "dev", "eth0")[0]
        tuned.append((link["mtu"], link["address"], {"PROMISC", "ALLMULTI"} <= set(link["flags"])))
        checked.append([container.call("CHECK", conf | {"prevResult": result}).body.get("code", 0) for conf in chain])
    assert tuned == [(1300, "02:00:00:00:00:99", True)] * 2
    assert checked[0] == checked[1]
    assert checked[1][0] == 0
    outside = case.lab.netns("outside")
    case.ours.netns.ip(f"link add out type veth peer name in netns {outside.name}", "link set out up")
    case.ours.netns.ip("address add 192.0.2.1/24 dev out")
    outside.ip("address add 192.0.2.2/24 dev in", "link set in up")
    server = container.netns.run(subprocess.Popen, [sys.executable, "-c", ANSWER], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        heard = outside.run(subprocess.check_output, [sys.executable, "-c", CALL, "192.0.2.1", "8080"])
        assert heard == b"hello"
    finally:
        server.kill()
        server.communicate()
    container.netns.ip("address delete 10.80.0.2/24 dev eth0")
    differs = container.call("CHECK", head | {"prevResult": result})
    assert (differs.code, "10.80.0.2/24" in differs.body["msg"]) == (102, True)
    nonsense = result | {"ips": [{"address": "10.80.0.300/24", "interface": 2}]}
    assert container.call("CHECK", head | {"prevResult": nonsense}).code == 7
    for conf in reversed(chain):
        container.delete(conf | {"prevResult": result})
    case.ours.netns.ip("link delete out")
    case.assert_nothing_left(container)


ANSWER = """
import socket
server = socket.create_server(("0.0.0.0", 80))
print("ready", flush=True)
while True:
    sock = server.accept()[0]
    sock.sendall(b"hello")
    sock.close()
"""
CALL = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
sys.stdout.write(sock.makefile().read())
"""


def tbf(netns: Netns, name: str) -> dict[str, Any]:
    """Return the token bucket of a link."""
    found = json.loads(netns.command("tc", "-json", "qdisc", "show", "dev", name, "root"))
    return {key: found[0]["options"][key] for key in ("rate", "burst", "lat")} if found[0]["kind"] == "tbf" else {}


def test_bandwidth(case: Case) -> None:
    """Mode bandwidth gives a TAP the very buckets that the reference gives a veth, and they hold."""
    rates = {"ingressRate": 16_000_000, "ingressBurst": 1_000_000, "egressRate": 8_000_000, "egressBurst": 800_000}
    chained = {"cniVersion": "1.0.0", "name": "net", "runtimeConfig": {"bandwidth": rates}}
    conf = case.conf(isGateway=True)
    (ours, result), (theirs, reference) = case.both(conf)
    shaped = chained | {"mode": "bandwidth", "type": "vethd-cni"}
    assert plain(ours.add(shaped | {"prevResult": result})) == plain(result)
    theirs.add(chained | {"type": "bandwidth", "prevResult": reference})
    host, other = (one["interfaces"][1]["name"] for one in (result, reference))
    assert tbf(case.ours.netns, host) == tbf(case.theirs.netns, other)
    assert tbf(ours.netns, "eth0")["rate"] == 1_000_000
    started = time.monotonic()
    payload = bytes(2_000_000)
    assert tcp_transfer(ours.netns, case.ours.netns, f"{SUBNET}.1", payload) == payload
    assert time.monotonic() - started > 1.5  # 1.9 s, as the bucket holds 0.1 MB
    assert ours.call("CHECK", shaped | {"prevResult": result}).ok == {}
    ours.netns.command("tc", "qdisc", "replace", "dev", "eth0", "root", "noqueue")
    differs = ours.call("CHECK", shaped | {"prevResult": result})
    assert (differs.code, "no limit, not 8000000 bit/s" in differs.body["msg"]) == (102, True)
    assert ours.call("ADD", shaped).code == 7
    half = shaped | {"prevResult": result, "runtimeConfig": {"bandwidth": {"ingressRate": 8000}}}
    assert ours.call("ADD", half).code == 100
    for one in (shaped, conf):
        ours.delete(one)
    assert ours.call("ADD", shaped | {"prevResult": result}).code == 100
    theirs.delete(chained | {"type": "bandwidth", "prevResult": reference})
    case.assert_nothing_left(ours)


def test_dhcp(case: Case) -> None:
    """IPAM that speaks through the container's end finds it up, on the bridge."""
    host = case.ours.netns
    host.ip(f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up", f"address add {SUBNET}.1/24 dev {BRIDGE}")
    sock = case.directory / "dhcp.sock"
    leases = case.directory / "leases"
    server = [
        "dnsmasq",
        "--keep-in-foreground",
        "--port=0",
        f"--interface={BRIDGE}",
        "--bind-interfaces",
        "--conf-file=",
    ]
    server += [f"--dhcp-range={SUBNET}.50,{SUBNET}.60,1h", f"--dhcp-leasefile={leases}", "--pid-file=", "--no-ping"]
    daemons = [server, [str(REFERENCE / "dhcp"), "daemon", "-socketpath", str(sock)]]
    running: list[subprocess.Popen[bytes]] = []
    null = subprocess.DEVNULL
    conf = case.conf(ipam={"type": "dhcp", "daemonSocketPath": str(sock)})
    container = case.container()
    try:
        for argv in daemons:
            running += [host.run(subprocess.Popen, argv, stdin=null, stdout=null, stderr=null)]
        wait_until(sock.exists, what="the DHCP client's socket")
        wait_until(lambda: ":0043 " in host.read("udp"), what="the DHCP server's socket")
        result = container.add(conf)
        assert len(result["ips"]) == 1
        address = result["ips"][0]["address"].partition("/")[0]
        assert [one[1] for one in cni.addresses(container.netns, "eth0")] == [address]
        ping(host, f"{SUBNET}.1", container.netns, address)
        container.delete(conf)
    finally:
        for process in running:
            process.terminate()
            process.wait()
    case.assert_nothing_left(container)


def test_version(case: Case) -> None:
    for said, told in ((b'{"cniVersion": "0.4.0"}', "0.4.0"), (b"", "1.1.0")):
        body = case.ours.call("VERSION", said).ok
        assert body == {"cniVersion": told, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}
