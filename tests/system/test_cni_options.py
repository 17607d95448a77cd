"""vethd-cni's further options: beside the reference plugins where Debian's know them, else beside the kernel's veth."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.lib import cni
from tests.lib.cni import BRIDGE, SUBNET, Case, Container, case_fixture, ip_json
from tests.lib.netns import Netns
from tests.lib.sockets import ping, udp_socket
from tests.lib.wait import wait_until

pytestmark = pytest.mark.heavy
__all__ = ["case_fixture"]

V6 = "fd80::/64"
ETH_P_IP = 0x0800


def named(case: Case, *addresses: str) -> dict[str, Any]:
    """Return a configuration whose IPAM gives these addresses; their gateways are their subnets' first."""
    gateways = {"10.": f"{SUBNET}.1", "fd8": "fd80::1"}
    said = [{"address": one, "gateway": gateways[one[:3]]} for one in addresses]
    return case.conf(ipam={"type": "static", "addresses": said})


def mac_known_for(netns: Netns, address: str) -> str:
    """Return the MAC that a namespace knows for a neighbour, "" where it knows none."""
    found = ip_json(netns, "neighbor", "show", address)
    return str(found[0].get("lladdr", "")) if found else ""


@pytest.mark.parametrize(("address", "own"), [(f"{SUBNET}.9/24", f"{SUBNET}.8/24"), ("fd80::9/64", "fd80::8/64")])
def test_address_that_another_container_had(case: Case, address: str, own: str) -> None:
    """Its neighbours learn at once whose it is now: they have the old MAC, and no reason to ask."""
    neighbour, first, second = (case.container() for _ in range(3))
    neighbour.add(named(case, own))
    conf = named(case, address)
    ip, its = address.partition("/")[0], own.partition("/")[0]
    macs = []
    for container in (first, second):
        macs.append(container.add(conf)["interfaces"][2]["mac"])
        if container is second:
            wait_until(lambda: mac_known_for(neighbour.netns, ip) == macs[1], what="the second container's MAC")
        ping(neighbour.netns, its, container.netns, ip)
        if container is first:
            assert mac_known_for(neighbour.netns, ip) == macs[0]
        container.delete(conf)
    neighbour.delete(named(case, own))
    case.assert_nothing_left(neighbour)


def arrives(sender: Netns, receiver: Container, address: str, word: bytes) -> bool:
    """Return whether a datagram to a container arrives there, ahead of one that its host sends afterwards."""
    with udp_socket(receiver.netns, "0.0.0.0") as ear:
        target = (address, ear.getsockname()[1])
        with udp_socket(sender, "0.0.0.0") as mouth:
            mouth.sendto(word, target)
        with udp_socket(receiver.host.netns, f"{SUBNET}.1") as last:
            last.sendto(b"last", target)
        return ear.recv(100) == word


def test_port_isolation(case: Case) -> None:
    """Containers reach the host and not each other, by the flag that `bridge link set isolated on` gives a veth."""
    for isolated in (False, True):
        conf = case.conf(isGateway=True, portIsolation=isolated)
        one, two = case.container(), case.container()
        results = [container.add(conf) for container in (one, two)]
        address = results[1]["ips"][0]["address"].partition("/")[0]
        # each knows the other's MAC, so that nothing but the datagram has to pass
        one.netns.ip(f"neighbor replace {address} lladdr {results[1]['interfaces'][2]['mac']} dev eth0")
        assert arrives(one.netns, two, address, b"first") is not isolated
        ping(case.ours.netns, f"{SUBNET}.1", two.netns, address)
        found = cni.port(case.ours.netns, results[0]["interfaces"][1]["name"])
        case.ours.netns.ip("link add v0 type veth peer name v1", f"link set v0 master {BRIDGE} up", "link set v1 up")
        case.ours.netns.command("bridge", "link", "set", "dev", "v0", "isolated", "on" if isolated else "off")
        wait_until(lambda: cni.port(case.ours.netns, "v0") == found, what=f"a veth with {found}")  # noqa: B023
        case.ours.netns.ip("link delete v0")
        assert one.call("CHECK", conf | {"prevResult": results[0]}).ok == {}
        for container in (one, two):
            container.delete(conf)
    case.assert_nothing_left(one)


def test_container_interface_that_stays_down(case: Case) -> None:
    conf = case.conf(disableContainerInterface=True, ipam={})
    container = case.container()
    result = container.add(conf)
    assert "ips" not in result
    link = ip_json(container.netns, "link", "show", "dev", "eth0")[0]
    assert "UP" not in link["flags"]
    assert link["address"] == result["interfaces"][2]["mac"]
    host = ip_json(case.ours.netns, "link", "show", "dev", result["interfaces"][1]["name"])[0]
    assert {"UP", "NO-CARRIER"} <= set(host["flags"])
    assert container.call("CHECK", conf | {"prevResult": result}).ok == {}
    container.delete(conf)
    assert container.call("ADD", case.conf(disableContainerInterface=True)).code == 7
    case.assert_nothing_left(container)


@pytest.mark.parametrize(("backend", "mark"), [("iptables", "VETHD-"), ("nftables", "vethd-cni/net/")])
def test_masquerading_backend(case: Case, backend: str, mark: str) -> None:
    """The backend that the network names is the one; without its program there is no other."""
    conf = case.conf(isGateway=True, ipMasq=True, ipMasqBackend=backend)
    container = case.container()
    container.add(conf)
    rules = case.rules()
    assert [one for one in ("VETHD-", "vethd-cni/net/") if one in rules] == [mark]
    container.delete(conf)
    case.assert_nothing_left(container)
    tools = case.directory / "tools"
    tools.mkdir()
    for tool in ("nft",) if backend == "nftables" else ("iptables", "iptables-restore"):
        (tools / tool).write_text("#!/bin/sh\necho not today >&2\nexit 3\n")
        (tools / tool).chmod(0o755)
    case.ours.environ = {**case.ours.environ, "PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"}
    assert container.call("ADD", conf).code == 103
    assert container.call("ADD", conf | {"ipMasqBackend": "ebtables"}).code == 7


def forged(container: Container, mac: str, address: str, port: int, word: bytes) -> None:
    """Send a datagram from a container, in a frame from that MAC."""
    own = ip_json(container.netns, "address", "show", "dev", "eth0")[0]
    source = next(one["local"] for one in own["addr_info"] if one["family"] == "inet")
    host = ip_json(container.host.netns, "link", "show", "dev", BRIDGE)[0]["address"]
    udp = (4242).to_bytes(2, "big") + port.to_bytes(2, "big") + (8 + len(word)).to_bytes(2, "big") + bytes(2) + word
    head = bytes.fromhex("4500") + (20 + len(udp)).to_bytes(2, "big") + bytes.fromhex("0000000040110000")
    head += socket.inet_aton(source) + socket.inet_aton(address)
    total = sum(int.from_bytes(head[at : at + 2], "big") for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + (~total & 0xFFFF).to_bytes(2, "big") + head[12:]
    frame = bytes.fromhex((host + mac).replace(":", "")) + ETH_P_IP.to_bytes(2, "big") + head + udp

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("eth0", 0))
            sock.send(frame)

    container.netns.run(send)


@pytest.mark.parametrize("checked", [False, True])
def test_mac_that_is_not_the_containers(case: Case, checked: bool) -> None:
    """What a container sends from another MAC reaches nobody where macspoofchk is said, as with the reference."""
    conf = case.conf(isGateway=True, macspoofchk=checked)
    for container, result in case.both(conf):
        with udp_socket(container.host.netns, f"{SUBNET}.1") as ear:
            port = ear.getsockname()[1]
            own = result["interfaces"][2]["mac"]
            for mac, word in (("02:00:00:00:0b:ad", b"forged"), (own, b"own")):
                forged(container, mac, f"{SUBNET}.1", port, word)
            assert ear.recv(100) == (b"own" if checked else b"forged"), container.host.plugin
        assert container.call("CHECK", case.own(conf, container.host) | {"prevResult": result}).status == 0
        container.delete(case.own(conf, container.host))
    assert case.rules() == ""


def test_mac_check_that_cannot_be_made(case: Case) -> None:
    """ADD fails, and leaves nothing; of the container's end nothing was ever up."""
    tools = case.directory / "tools"
    tools.mkdir()
    (tools / "nft").write_text("#!/bin/sh\necho not today >&2\nexit 3\n")
    (tools / "nft").chmod(0o755)
    case.ours.environ = {**case.ours.environ, "PATH": f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"}
    container = case.container()
    answer = container.call("ADD", case.conf(macspoofchk=True))
    assert (answer.code, "not today" in answer.body["details"]) == (103, True)
    case.assert_nothing_left(container)


def test_gc_takes_the_rules_too(case: Case) -> None:
    conf = case.conf(
        cniVersion="1.1.0", isGateway=True, ipMasq=True, macspoofchk=True, ipam=named(case, f"{SUBNET}.9/24")["ipam"]
    )
    container = case.container()
    container.add(conf | {"cniVersion": "1.0.0"})
    assert len(case.rules().splitlines()) == 2
    quiet = conf | {"ipam": {}, "cni.dev/valid-attachments": []}
    assert case.ours.call("GC", quiet).ok == {}
    case.assert_nothing_left(container)


def tentative(netns: Netns) -> list[str]:
    """Return the addresses whose duplicate address detection is not over, but for link-local ones."""
    found = ip_json(netns, "-6", "address", "show", "dev", "eth0", "scope", "global")
    return [one["local"] for link in found for one in link.get("addr_info", []) if one.get("tentative")]


@pytest.mark.parametrize("mode", ["bridge", "ptp"])
@pytest.mark.parametrize("dad", [False, True], ids=["no-dad", "dad"])
def test_addresses_can_be_used(case: Case, mode: str, dad: bool) -> None:
    """When ADD is over, so is duplicate address detection."""
    conf = case.conf(mode=mode, isGateway=True, enabledad=dad, ipam=case.ipam(V6))
    container = case.container()
    result = container.add(conf)
    assert tentative(container.netns) == []
    for ip in result["ips"]:
        ping(container.netns, ip["address"].partition("/")[0], case.ours.netns, ip["gateway"])
    container.delete(conf)
    case.assert_nothing_left(container)


def test_address_that_somebody_has(case: Case) -> None:
    """With enabledad ADD fails, and leaves the one who has it alone; without, nobody looks."""
    conf = named(case, "fd80::9/64")
    first, second = case.container(), case.container()
    first.add(conf)
    answer = second.call("ADD", conf | {"enabledad": True})
    assert (answer.code, answer.body["details"], "fd80::9" in answer.body["msg"]) == (100, "EADDRINUSE", True)
    assert second.netns.names() == set()
    second.add(conf)
    for container in (first, second):
        container.delete(conf)
    case.assert_nothing_left(second)


def test_mac_of_a_bridge_that_was_there(case: Case) -> None:
    """A gateway's MAC stays as it is, whoever comes and goes on the bridge."""
    for host in (case.ours, case.theirs):
        host.netns.ip(f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up")

    def mac(netns: Netns) -> str:
        return str(ip_json(netns, "link", "show", "dev", BRIDGE)[0]["address"])

    for container, result in case.both(case.conf(isGateway=True)):
        netns = container.host.netns
        told = result["interfaces"][0]["mac"]
        assert mac(netns) == told
        netns.ip("link add low type veth peer name other", "link set low address 02:00:00:00:00:01")
        netns.ip(f"link set low master {BRIDGE} up")
        assert mac(netns) == told, container.host.plugin
        container.delete(case.own(case.conf(), container.host))
        netns.ip("link delete low")
        assert mac(netns) == told, container.host.plugin


def test_addresses_of_one_family(case: Case) -> None:
    """A container may have several; a bridge has no second one of IPv4 for them, nor of IPv6 in the same subnet."""
    conf = case.conf(ipam=case.ipam("10.81.0.0/24", "fd80::/64", "fd81::/64"))
    (ours, result), (theirs, reference) = case.both(conf)
    assert result["ips"] == reference["ips"]
    assert cni.addresses(ours.netns, "eth0") == cni.addresses(theirs.netns, "eth0")
    assert cni.routes(ours.netns, "eth0") == cni.routes(theirs.netns, "eth0")
    for container in (ours, theirs):
        container.delete(case.own(conf, container.host))
    gateway = case.conf(isGateway=True, ipam=case.ipam("10.81.0.0/24"))
    container = case.container()
    for one in (container, case.container(case.theirs)):
        assert one.call("ADD", case.own(gateway, one.host)).status == 1, one.host.plugin
    case.assert_nothing_left(container)
    six = case.conf(isGateway=True, ipam=case.ipam("fd80::/64", "fd81::/64") | {"dataDir": f"{case.directory}/six"})
    six["ipam"]["ranges"] = six["ipam"]["ranges"][1:]
    for one in (container, case.container(case.theirs)):
        one.add(six | {"ipam": six["ipam"] | {"dataDir": f"{case.directory}/{one.host.plugin}"}})
        found = {address[1] for address in cni.addresses(one.host.netns, BRIDGE) if address[0] == "inet6"}
        assert found == {"fd80::1", "fd81::1"}, one.host.plugin
    container.delete(six | {"ipam": six["ipam"] | {"dataDir": f"{case.directory}/vethd-cni"}})


def test_check_of_a_promiscuous_bridge(case: Case) -> None:
    conf = case.conf(promiscMode=True)
    container = case.container()
    result = container.add(conf)
    said = conf | {"prevResult": result}
    assert container.call("CHECK", said).ok == {}
    case.ours.netns.ip(f"link set {BRIDGE} promisc off")
    answer = container.call("CHECK", said)
    assert (answer.code, "promiscuous" in answer.body["msg"]) == (102, True)
    container.delete(conf)


def test_unknown_options_are_left_alone(case: Case) -> None:
    """As the specification has it, and as the reference does."""
    conf = case.conf(nobodyKnows=True, args={"cni": {"nor": "this"}}, runtimeConfig={"aliases": {"net": ["web"]}})
    for container, _ in case.both(conf, args="IgnoreUnknown=1;K8S_POD_NAME=x"):
        container.delete(case.own(conf, container.host), args="IgnoreUnknown=1;K8S_POD_NAME=x")
