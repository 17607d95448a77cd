"""What a container cannot do to its host: vethd-cni beside the reference plugins, and where /proc/sys is read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lib import cni
from tests.lib.advertiser import PREFIX, advertise, flooding, received
from tests.lib.cni import BRIDGE, Case, Container, Host, case_fixture, ip_json
from tests.lib.netns import Netns
from tests.lib.rtnl import RTM_NEWLINK, RTMGRP_LINK, Rtnl
from tests.lib.site import fd_call
from tests.lib.wait import wait_until

pytestmark = pytest.mark.heavy
__all__ = ["case_fixture"]

MODES = ("bridge", "ptp")
V6 = "fd80::/64"


def taken(netns: Netns) -> set[str]:
    """Return what a namespace took from router advertisements: routes and addresses."""
    routes = {f"route {one['dst']} dev {one['dev']}" for one in ip_json(netns, "-6", "route") if one.get("expires")}
    links = ip_json(netns, "-6", "address")
    return routes | {
        f"address {one['local']} of {link['ifname']}"
        for link in links
        for one in link.get("addr_info", [])
        if one["local"].startswith(PREFIX.rstrip(":"))
    }


def attack(container: Container) -> set[str]:
    """Advertise a router from a container; return what its host took.

    The second advertisement is received when the first has been worked off.
    """
    host = container.host.netns
    for _ in range(2):
        before = received(host)
        advertise(container.netns, "eth0")
        wait_until(lambda: received(host) > before, what="the advertisement received")  # noqa: B023 - waited for here
    return taken(host)


def both(case: Case, mode: str, **said: Any) -> Iterator[tuple[Host, Container, dict[str, Any], dict[str, Any]]]:
    """ADD a container on each host, ours first: host, container, its configuration, result."""
    case.theirs.plugin = mode
    for host in (case.ours, case.theirs):
        conf = case.own(case.conf(mode=mode, **said), host)
        container = case.container(host)
        yield host, container, conf, container.add(conf)


def host_ends(result: dict[str, Any]) -> list[str]:
    """Return the names of a result's interfaces that are the host's."""
    return [one["name"] for one in result["interfaces"] if "sandbox" not in one]


@pytest.mark.parametrize("mode", MODES)
def test_advertised_router(case: Case, mode: str) -> None:
    """CVE-2020-10749: the host takes no route and no address from a container, unless its administrator says so."""
    for host, container, conf, result in both(case, mode, isGateway=mode == "bridge"):
        for name in host_ends(result):
            assert cni.sysctls(host.netns, name)["ipv6/accept_ra"] == "0", (host.plugin, name)
        assert attack(container) == set(), host.plugin
        # the same advertisement is taken where it may be: so it would have been seen
        first = host_ends(result)[0]
        host.netns.sysctl(f"net/ipv6/conf/{first}/accept_ra", "1")
        assert f"route default dev {first}" in attack(container), host.plugin
        host.netns.ip(f"link delete {first}")
        container.delete(conf)


def test_advertised_router_by_a_port_that_left_its_bridge(case: Case) -> None:
    """The host's end alone, without the bridge that takes its frames, takes nothing either."""
    for host, container, conf, result in both(case, "bridge"):
        port = host_ends(result)[1]
        host.netns.ip(f"link set {port} nomaster")
        assert attack(container) == set(), host.plugin
        container.delete(conf)


@pytest.mark.parametrize("mode", MODES)
def test_advertised_router_before_anything_is_up(case: Case, mode: str) -> None:
    """Advertisements arrive from the first instant on, and there is none in which they are taken."""
    for _ in range(5):
        container = case.container()
        conf = case.conf(mode=mode, isGateway=mode == "bridge")
        before = received(case.ours.netns)
        with flooding(container.netns, "eth0"):
            container.add(conf)
            wait_until(lambda: received(case.ours.netns) > before + 10, what="advertisements")  # noqa: B023 - as above
        assert taken(case.ours.netns) == set()
        container.delete(conf)
        if mode == "bridge":
            case.ours.netns.ip(f"link delete {BRIDGE}")


def test_bridge_that_is_there_takes_no_router_either(case: Case) -> None:
    for host in (case.ours, case.theirs):
        host.netns.ip(f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up")
        assert cni.sysctls(host.netns, BRIDGE)["ipv6/accept_ra"] == "1"
    for host, container, conf, _ in both(case, "bridge"):
        assert cni.sysctls(host.netns, BRIDGE)["ipv6/accept_ra"] == "0", host.plugin
        container.delete(conf)


@pytest.mark.parametrize("dad", [False, True], ids=["no-dad", "dad"])
@pytest.mark.parametrize("more", [(), (V6,)], ids=["v4", "dual"])
@pytest.mark.parametrize("mode", MODES)
def test_sysctls(case: Case, mode: str, more: tuple[str, ...], dad: bool) -> None:
    """Every sysctl of each end and of the bridge is as the reference leaves it, but for those that ours adds."""
    found = []
    for host, container, conf, result in both(case, mode, ipam=case.ipam(*more), enabledad=dad, isGateway=True):
        container.netns.sysctl("net/ipv6/conf/all/disable_ipv6", "0")
        own = {"eth0": cni.sysctls(container.netns, "eth0"), "lo": cni.sysctls(container.netns, "lo")}
        own |= {name.rstrip("0123456789abcdef"): cni.sysctls(host.netns, name) for name in host_ends(result)}
        found.append({f"{link}/{key}": value for link in own for key, value in own[link].items()})
        container.delete(conf)
    ours, theirs = found
    differs = {key: value for key, value in ours.items() if theirs[key] != value}
    added = {"eth0/ipv6/ndisc_notify": "1"}
    added |= {"eth0/ipv6/keep_addr_on_down": "1"} if more else {}  # the reference since 1.7
    if mode == "ptp":  # the reference sets none of these there
        added |= {"eth0/ipv4/arp_notify": "1"} | ({} if dad else {"eth0/ipv6/accept_dad": "0"})
    assert differs == added


def test_ipv6_that_a_container_has_off(case: Case) -> None:
    """It is allowed on lo and on the container's end, and nowhere else."""
    switches = []
    for host in (case.ours, case.theirs):
        container = case.container(host)
        for scope in ("all", "default", "lo"):
            container.netns.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "1")
        conf = case.own(case.conf(ipam=case.ipam(V6)), host)
        container.add(conf)
        own = [cni.sysctls(container.netns, name) for name in ("all", "default", "lo", "eth0")]
        switches.append([one["ipv6/disable_ipv6"] for one in own])
        assert "inet6" in {address[0] for address in cni.addresses(container.netns, "eth0")}
        container.delete(conf)
    assert switches == [["1", "1", "0", "0"]] * 2


def test_link_without_ipv6(case: Case) -> None:
    """An MTU below 1280 leaves no IPv6 on the ends: there is nothing to set, and nothing to tell."""
    for host, container, conf, result in both(case, "ptp", mtu=1000):
        port = host_ends(result)[0]
        assert "ipv6/accept_ra" not in cni.sysctls(host.netns, port), host.plugin
        container.delete(conf)
    container = case.container()
    assert container.call("ADD", case.conf(mtu=1000)).log == ""
    container.delete(case.conf())


# --- where /proc/sys cannot be written


READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"


@contextmanager
def read_only(case: Case, plugin: str) -> Iterator[str]:
    """Yield the name of a plugin that runs as that one does, with a read-only /proc/sys."""
    wrapper = case.directory / "bin" / f"read-only-{plugin}"
    program = next(path for one in case.ours.path.split(":") if (path := Path(one, plugin)).exists())
    wrapper.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{READ_ONLY} && exec {program}'\n")
    wrapper.chmod(0o755)
    yield wrapper.name
    wrapper.unlink()


@pytest.mark.parametrize("mode", MODES)
def test_read_only(case: Case, mode: str) -> None:
    """Both go on where nothing but a wish is refused; ours says which."""
    for host in (case.ours, case.theirs):
        host.netns.sysctl("net/ipv4/ip_forward", "1")
    for host, plugin in ((case.ours, "vethd-cni"), (case.theirs, mode)):
        with read_only(case, plugin) as name:
            container = case.container(host)
            conf = case.own(case.conf(mode=mode, isGateway=True, type=name), host)
            answer = container.call("ADD", conf)
            for link in host_ends(answer.ok):
                assert cni.sysctls(host.netns, link)["ipv6/accept_ra"] == "1", plugin
                assert host is case.theirs or f"/proc/sys/net/ipv6/conf/{link}/accept_ra" in answer.log
            container.delete(conf)


def test_read_only_and_right(case: Case) -> None:
    """What is so already is not written, nor told."""
    for key, value in (("ipv4/ip_forward", "1"), ("ipv6/conf/default/accept_ra", "0")):
        case.ours.netns.sysctl(f"net/{key}", value)
    container = case.container()
    for key, value in (("ipv6/conf/default/accept_dad", "0"), ("ipv4/conf/default/arp_notify", "1")):
        container.netns.sysctl(f"net/{key}", value)
    container.netns.sysctl("net/ipv6/conf/default/ndisc_notify", "1")
    with read_only(case, "vethd-cni") as name:
        answer = container.call("ADD", case.conf(isGateway=True, type=name))
        assert (answer.status, answer.log) == (0, "")
        container.delete(case.conf(type=name))
    case.assert_nothing_left(container)


@pytest.mark.parametrize("key", ["ip_forward", "disable_ipv6"])
def test_read_only_and_wrong(case: Case, key: str) -> None:
    """Without forwarding, or IPv6 where it has an address, a container has not the network that was asked for."""
    if key == "disable_ipv6":
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            case.ours.netns.sysctl(f"net/{name}", "1")
    container = case.container()
    container.netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")
    with read_only(case, "vethd-cni") as name:
        answer = container.call("ADD", case.conf(isGateway=True, type=name, ipam=case.ipam(V6)))
    assert (answer.code, key in answer.body["msg"], answer.body["details"]) == (100, True, "EROFS")
    case.assert_nothing_left(container)


# --- the directory that is lent to the daemon


@contextmanager
def mounted_over(netns: Netns, place: str, *commands: str) -> Iterator[str]:
    """Yield the path of a /proc/sys/net with a tmpfs mounted over a place below /proc, in a mount namespace."""
    script = " && ".join([f"mount -t tmpfs none {place}", *commands, "echo ready", "exec cat"])
    argv = ["unshare", "--mount", "sh", "-ec", script]
    holder = netns.run(subprocess.Popen, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield f"/proc/{holder.pid}/root/proc/sys/net"
    finally:
        holder.communicate()


def lend(case: Case, container: Container, path: str, **said: Any) -> tuple[int, Any]:
    """Ask the daemon for an attachment, with that directory for its sysctls."""
    host = case.ours.netns
    paths = [(container.netns, str(container.netns.path)), (host, str(host.path)), (host, path)]
    fds = [netns.run(os.open, one, os.O_RDONLY) for netns, one in paths]
    body = {"network": "net", "container": "c", "ifname": "eth0", "netns": "fd:0", "host_netns": "fd:1"}
    try:
        return fd_call(case.site.socket, "POST", "/v1/attachments", body | {"sysctls": "fd:2"} | said, fds)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("said", [{}, {"bridge": {"name": BRIDGE}}], ids=MODES[::-1])
def test_lent_directory_leads_nowhere_else(case: Case, said: dict[str, Any]) -> None:
    """A file that the client mounted there is not written; and where accept_ra cannot be set, nothing comes up."""
    container = case.container()
    host = case.ours.netns
    conf = "/proc/sys/net/ipv6/conf"
    files = [f"mkdir {conf}/{name} && echo secret > {conf}/{name}/accept_ra" for name in (BRIDGE, "veth0")]
    ups = []
    with mounted_over(host, conf, *files) as path, Rtnl(host, RTMGRP_LINK) as events:
        status, body = lend(case, container, path, **said)
        assert (status, body["code"]) == (500, "EXDEV")
        written = host.run(Path(path, "ipv6/conf", BRIDGE, "accept_ra").read_text)
        ups += [link.name for kind, link in events.events() if kind == RTM_NEWLINK and link.flags & 1]
    assert (written, ups, case.attachments()) == ("secret\n", [], [])
    assert host.names() == ({BRIDGE} if said else set())


def test_lent_directory_is_of_procfs(case: Case) -> None:
    status, body = lend(case, case.container(), "/tmp")
    assert (status, body["code"]) == (400, "EINVAL")
    assert case.attachments() == []


def test_kernel_without_ipv6(case: Case) -> None:
    """Where there is no /proc/sys/net/ipv6 there is nothing to set."""
    container = case.container()
    with mounted_over(case.ours.netns, "/proc/sys/net/ipv6") as path:
        status, body = lend(case, container, path, bridge={"name": BRIDGE})
    assert (status, body["refused"]) == (201, [])
    container.netns.ip("link delete eth0")
    wait_until(lambda: case.attachments() == [], what="the attachment gone")
