"""The VLANs of vethd-cni's ports beside the reference bridge plugin's: `python -m tests.lib.cni_vlans`.

A program, as it needs a kernel whose bridge filters VLANs: tests/system/test_cni_vlans.py runs it in a virtual machine.
It ends with an AssertionError where something differs.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.lib.cni import BRIDGE, SUBNET, Case, Container, addresses, ip_json, routes
from tests.lib.netns import Netns
from tests.lib.site import site as make_site
from tests.lib.sockets import ping, udp_socket

VLAN = 5
DEFAULT = (1, frozenset({"PVID", "Egress Untagged"}))
NATIVE = (VLAN, frozenset({"PVID", "Egress Untagged"}))


def vlans(netns: Netns, name: str) -> set[tuple[int, frozenset[str]]]:
    """Return a port's VLANs, or a bridge's own, each with its flags."""
    found: set[tuple[int, frozenset[str]]] = set()
    for one in json.loads(netns.command("bridge", "-json", "vlan", "show", "dev", name))[0]["vlans"]:
        numbers = range(one["vlan"], one.get("vlanEnd", one["vlan"]) + 1)
        found |= {(number, frozenset(one.get("flags", ()))) for number in numbers}
    return found


def tagged(*numbers: int) -> set[tuple[int, frozenset[str]]]:
    """Return VLANs whose frames are tagged."""
    return {(number, frozenset()) for number in numbers}


def added(case: Case, **said: Any) -> tuple[Container, dict[str, Any], set[tuple[int, frozenset[str]]]]:
    """ADD one container to our host; return its result and its port's VLANs."""
    container = case.container()
    result = container.add(case.conf(**said))
    return container, result, vlans(case.ours.netns, result["interfaces"][1]["name"])


def check_ports(case: Case) -> None:
    """Each option gives a port exactly its VLANs."""
    kept = (1, frozenset({"Egress Untagged"}))
    far, near = {"minID": 100, "maxID": 103}, {"minID": 4, "maxID": 6}
    for said, expected in (
        ({"vlan": VLAN}, {NATIVE}),
        ({"vlan": VLAN, "preserveDefaultVlan": True}, {kept, NATIVE}),
        ({"vlan": 1}, {DEFAULT}),
        ({"vlanTrunk": [far, {"id": 7}]}, {DEFAULT, *tagged(7, 100, 101, 102, 103)}),
        ({"vlan": VLAN, "vlanTrunk": [{"id": 7} | near]}, {NATIVE, *tagged(4, 6, 7)}),
        ({"vlan": VLAN, "vlanTrunk": [{"id": 1}]}, {NATIVE, *tagged(1)}),
    ):
        container, result, found = added(case, **said)
        assert found == expected, f"{said}: {found}"
        conf = case.conf(**said)
        assert container.call("CHECK", conf | {"prevResult": result}).ok == {}
        container.delete(conf)
    print("ports: as asked for", flush=True)


def check_reference(case: Case) -> None:
    """The reference of Debian 12 keeps the default VLAN, as its successors do where they are told to."""
    theirs = case.container(case.theirs)
    result = theirs.add(case.own(case.conf(vlan=VLAN), case.theirs))
    kept = vlans(case.theirs.netns, result["interfaces"][1]["name"])
    ours, _, found = added(case, vlan=VLAN, preserveDefaultVlan=True)
    assert found == kept, f"{found} beside the reference's {kept}"
    for container, host in ((ours, case.ours), (theirs, case.theirs)):
        container.delete(case.own(case.conf(vlan=VLAN), host))
    print("preserveDefaultVlan: as the reference", flush=True)


def check_gateway(case: Case) -> None:
    """A gateway of a VLAN is an interface of its own, of the reference's name and addresses, and can be reached."""
    conf = case.conf(vlan=VLAN, isDefaultGateway=True, ipam=case.ipam("fd80::/64", routes=[]))
    (ours, result), (theirs, reference) = case.both(conf)
    device = f"{BRIDGE}.{VLAN}"
    for told, netns in ((result, case.ours.netns), (reference, case.theirs.netns)):
        names = [one["name"] for one in told["interfaces"]]
        assert [names[0], names[2], names[3]] == [BRIDGE, "eth0", device], names
        assert {ip["interface"] for ip in told["ips"]} == {2}
        assert ip_json(netns, "link", "show", "dev", device)[0]["address"] == told["interfaces"][3]["mac"]
    assert addresses(case.ours.netns, device) == addresses(case.theirs.netns, device)
    assert addresses(case.ours.netns, BRIDGE) == addresses(case.theirs.netns, BRIDGE) == []
    # without their sources: host-local gives the hosts' containers different addresses
    ways = [[route[:3] for route in routes(one.netns, "eth0")] for one in (ours, theirs)]
    assert ways[0] == ways[1], ways
    for ip in result["ips"]:
        ping(case.ours.netns, ip["gateway"], ours.netns, ip["address"].partition("/")[0])
    accept_ra = case.ours.netns.command("cat", f"/proc/sys/net/ipv6/conf/{device}/accept_ra")
    assert accept_ra == "0\n", accept_ra
    second, more, _ = added(case, vlan=VLAN, isDefaultGateway=True)
    assert more["interfaces"][3] == result["interfaces"][3]
    assert second.call("CHECK", conf | {"prevResult": more, "ipam": case.ipam()}).ok == {}
    ours.delete(conf)
    second.delete(conf)
    theirs.delete(case.own(conf, case.theirs))
    for netns in (case.ours.netns, case.theirs.netns):
        netns.ip(f"link delete {device}")
    print("gateway of a VLAN: as the reference", flush=True)


def check_apart(case: Case) -> None:
    """A container of a VLAN hears no broadcast of another's."""
    one, _, _ = added(case, vlan=VLAN)
    two, _, _ = added(case, vlan=VLAN)
    other, _, _ = added(case)
    with udp_socket(one.netns, "0.0.0.0") as ear:
        port = ear.getsockname()[1]
        for container, word in ((other, b"of the default VLAN"), (two, b"of the same VLAN")):
            with udp_socket(container.netns, "0.0.0.0") as mouth:
                mouth.setsockopt(1, 6, 1)  # SOL_SOCKET, SO_BROADCAST
                mouth.sendto(word, (f"{SUBNET}.255", port))
        assert ear.recv(100) == b"of the same VLAN"
    for container in (one, two, other):
        container.delete(case.conf())
    print("VLANs: apart", flush=True)


def main() -> None:
    """Run all of it, in a site of its own."""
    with tempfile.TemporaryDirectory(prefix="vethd-cni-") as name:
        directory = Path(name)
        (directory / "site").mkdir()
        with make_site(directory / "site") as (site, lab):
            site.start()
            case = Case(site, lab, directory)
            for check in (check_ports, check_reference, check_gateway, check_apart):
                check(case)
            case.clear()
            case.theirs.netns.delete()


if __name__ == "__main__":
    main()
