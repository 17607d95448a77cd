"""vethd-cni when things go wrong, twice, or away: DEL, CHECK, STATUS, GC, a daemon that is down, stuck or restarted."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lib.cni import BRIDGE, SUBNET, Case, case_fixture, ip_json
from tests.lib.daemon import PROGRAM
from tests.lib.fd_store import FdStore
from tests.lib.site import site as make_site
from tests.lib.sockets import ping
from tests.lib.supervisor import Supervisor
from tests.lib.wait import wait_until

pytestmark = pytest.mark.heavy
__all__ = ["case_fixture"]

MODERN = {"cniVersion": "1.1.0"}
IPAM = """#!/bin/sh
# an IPAM plugin that speaks 1.1.0 and writes down what it was called for
echo "$CNI_COMMAND ${CNI_CONTAINERID:-}" >> "$(dirname "$0")/called"
cat > /dev/null
[ ! -e "$(dirname "$0")/fail-$CNI_COMMAND" ] || { cat "$(dirname "$0")/fail-$CNI_COMMAND"; exit 1; }
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.80.0.5/24"}],
  "routes": [{"dst": "10.99.0.0/16", "mtu": 1300, "priority": 7}]}'
"""


@pytest.fixture
def ipam(case: Case) -> Path:
    """Put an IPAM plugin of our own beside vethd-cni; return its book."""
    plugin = case.directory / "bin" / "book"
    plugin.write_text(IPAM)
    plugin.chmod(0o755)
    return plugin.with_name("called")


def modern(case: Case, **said: Any) -> dict[str, Any]:
    return case.conf(**MODERN, isGateway=True, ipam={"type": "book"}, **said)


def test_delete_is_idempotent(case: Case) -> None:
    conf = case.conf(isGateway=True, ipMasq=True)
    container = case.container()
    container.delete(conf)
    container.add(conf)
    for _ in range(2):
        container.delete(conf)
        case.assert_nothing_left(container)


@pytest.mark.parametrize("said", [{"netns": ""}, {"netns": "/run/netns/none"}], ids=["unsaid", "gone"])
def test_delete_without_a_namespace(case: Case, said: dict[str, str]) -> None:
    conf = case.conf(isGateway=True, ipMasq=True)
    container = case.container()
    container.add(conf)
    container.delete(conf, **said)
    case.assert_nothing_left(container)


def test_container_killed(case: Case) -> None:
    """Its namespace is gone before DEL; the pair goes with it, the rest by DEL."""
    conf = case.conf(isGateway=True, ipMasq=True)
    container = case.container()
    container.add(conf)
    container.netns.delete()
    assert container.call("DEL", conf).ok == {}
    assert (case.leased(), case.attachments(), case.rules()) == (set(), [], "")


def test_delete_goes_on_past_a_failure(case: Case, ipam: Path) -> None:
    conf = modern(case)
    container = case.container()
    container.add(conf)
    ipam.with_name("fail-DEL").write_text('{"cniVersion": "1.1.0", "code": 11, "msg": "later", "details": "why"}')
    answer = container.call("DEL", conf)
    assert answer.body == {"cniVersion": "1.1.0", "code": 11, "msg": "later", "details": "why"}
    case.assert_nothing_left(container)


def test_interface_that_is_there(case: Case) -> None:
    """ADD twice is an error that leaves the first as it was, address and all."""
    conf = case.conf(isGateway=True, ipMasq=True)
    container = case.container()
    container.netns.ip("link add eth0 type veth peer name other")
    assert container.call("ADD", conf).code == 100
    assert case.leased() == set()
    container.netns.ip("link delete eth0")
    case.assert_nothing_left(container)
    first = container.add(conf)
    second = container.call("ADD", conf | {"name": "net"}, containerid="another")
    assert (second.code, second.body["details"]) == (100, "EEXIST")
    assert case.leased() == {first["ips"][0]["address"].partition("/")[0]}
    assert container.call("CHECK", conf | {"prevResult": first}).ok == {}
    # and so with an IPAM that does not mind: nobody takes the first one's lease and rules
    rules = case.rules()
    assert rules
    again = container.call("ADD", conf)
    assert (again.code, again.body["details"]) == (100, "EEXIST")
    assert case.leased() == {first["ips"][0]["address"].partition("/")[0]}
    assert case.rules() == rules
    container.delete(conf)
    case.assert_nothing_left(container)


def test_read_only_sysctls(case: Case) -> None:
    """Where the host forwards already nothing need be written; else it is an error that leaves nothing."""
    wrapper = case.directory / "bin" / "read-only"
    mounts = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
    wrapper.write_text(
        f"#!/bin/sh\nexec unshare --mount sh -c '{mounts} && exec $0' {wrapper.with_name('vethd-cni')}\n"
    )
    wrapper.chmod(0o755)
    conf = case.conf(isGateway=True, type="read-only")
    container = case.container()
    answer = container.call("ADD", conf)
    assert (answer.code, "ip_forward" in answer.body["msg"]) == (100, True)
    case.assert_nothing_left(container)
    case.ours.netns.sysctl("net/ipv4/ip_forward", "1")
    container.add(conf)
    container.delete(conf)


def test_two_networks_in_one_container(case: Case) -> None:
    conf = case.conf(isGateway=True)
    other = conf | {"name": "net2", "bridge": BRIDGE}
    container = case.container()
    container.add(conf, "eth0")
    container.add(other, "eth1")
    assert container.netns.names() == {"eth0", "eth1"}
    container.delete(other, "eth1")
    assert container.netns.names() == {"eth0"}
    container.delete(conf, "eth0")


def test_failed_add_leaves_nothing(case: Case, ipam: Path) -> None:
    """Whichever step fails: IPAM's, the daemon's, the firewall's."""
    container = case.container()

    def fails(conf: dict[str, Any], code: int, *, given: bool = True) -> None:
        ipam.write_text("")
        answer = container.call("ADD", conf)
        assert answer.code == code, answer
        case.assert_nothing_left(container)
        # where IPAM itself failed, it has nothing to take back
        assert ipam.read_text().splitlines() == [f"ADD {container.id}", f"DEL {container.id}"][: 1 + given]

    ipam.with_name("fail-ADD").write_text("no JSON at all")
    fails(modern(case), 101, given=False)
    ipam.with_name("fail-ADD").write_text('{"cniVersion": "1.1.0", "code": 7, "msg": "no"}')
    fails(modern(case), 7, given=False)
    ipam.with_name("fail-ADD").unlink()
    fails(modern(case, mtu=70000), 100)
    tools = case.directory / "tools"
    tools.mkdir()
    for tool in ("nft", "iptables", "iptables-restore"):
        (tools / tool).write_text("#!/bin/sh\necho not today >&2\nexit 3\n")
        (tools / tool).chmod(0o755)
    case.ours.environ = {**case.ours.environ, "PATH": f"{tools}:/usr/bin:/bin"}
    fails(modern(case, ipMasq=True), 103)
    empty = case.directory / "bin" / "book"
    empty.write_text(IPAM.replace('[{"address": "10.80.0.5/24"}]', "[]"))
    fails(modern(case), 101)
    empty.write_text(IPAM.replace("10.80.0.5/24", "10.80.0.5"))
    fails(modern(case), 101)
    empty.write_text(IPAM.replace("10.99.0.0/16", "nonsense"))
    fails(modern(case), 100)


def test_routes_of_1_1(case: Case, ipam: Path) -> None:  # noqa: ARG001 - it stands beside the plugin
    conf = modern(case)
    container = case.container()
    result = container.add(conf)
    assert result["routes"] == [{"dst": "10.99.0.0/16", "mtu": 1300, "priority": 7}]
    assert [link["mtu"] for link in result["interfaces"]] == [1500, 1500, 1500]
    route = ip_json(container.netns, "route", "show", "10.99.0.0/16")[0]
    assert (route["gateway"], route["metric"], route["metrics"]) == (f"{SUBNET}.1", 7, [{"mtu": 1300}])
    assert container.call("CHECK", conf | {"prevResult": result}).ok == {}
    container.delete(conf)


def test_check_says_what_differs(case: Case, ipam: Path) -> None:  # noqa: ARG001 - it stands beside the plugin
    conf = modern(case)
    container = case.container()
    result = container.add(conf)
    host = result["interfaces"][1]["name"]
    breaks = [
        (case.ours.netns, f"link set {host} nomaster", "is a port of no bridge"),
        (container.netns, "route delete 10.99.0.0/16", "the route to 10.99.0.0/16"),
        (container.netns, "address delete 10.80.0.5/24 dev eth0", "10.80.0.5/24"),
        (container.netns, "link set eth0 down", "up"),
        (container.netns, "link set eth0 address 02:00:00:00:00:01", "02:00:00:00:00:01"),
    ]
    said = conf | {"prevResult": result}

    def told(words: str) -> bool:
        return words in container.call("CHECK", said).body.get("msg", "")

    for netns, line, words in breaks:
        netns.ip(line)
        wait_until(partial(told, words), what=words)
        assert container.call("CHECK", said).code == 102
        if netns is case.ours.netns:
            netns.ip(f"link set {host} master {BRIDGE}")
            wait_until(lambda: container.call("CHECK", said).status == 0, what="the port again")
    container.delete(conf)
    assert container.call("CHECK", said).code == 102
    assert container.call("CHECK", conf).code == 7
    assert container.call("CHECK", conf | {"cniVersion": "0.3.1"}).code == 1


def test_status(case: Case, ipam: Path) -> None:
    conf = modern(case)
    assert case.ours.call("STATUS", conf).ok == {}
    ipam.with_name("fail-STATUS").write_text('{"cniVersion": "1.1.0", "code": 51, "msg": "full"}')
    assert case.ours.call("STATUS", conf).code == 51
    case.ours.environ = {"VETHD_SOCKET": "/nowhere/vethd.sock"}
    assert case.ours.call("STATUS", conf).code == 50
    assert case.ours.call("STATUS", conf | {"cniVersion": "1.0.0"}).code == 1


def test_gc(case: Case, ipam: Path) -> None:
    """What the runtime does not know of goes; what it does, and what is of other networks, stays."""
    conf = modern(case, ipMasq=True)
    containers = [case.container() for _ in range(3)]
    for container in containers:
        container.add(conf, "eth0")
        container.add(conf, "eth1")
    containers[2].add(conf | {"name": "another"}, "eth2")
    keep = [{"containerID": containers[0].id, "ifname": "eth0"}, {"containerID": containers[1].id, "ifname": "eth1"}]
    assert case.ours.call("GC", conf | {"cni.dev/valid-attachments": keep}).ok == {}
    assert [container.netns.names() for container in containers] == [{"eth0"}, {"eth1"}, {"eth2"}]
    assert len(case.rules().splitlines()) == 3
    assert "GC" in ipam.read_text()
    ipam.with_name("fail-GC").write_text('{"cniVersion": "1.1.0", "code": 7, "msg": "no GC here"}')
    answer = case.ours.call("GC", conf | {"cni.dev/valid-attachments": []})
    assert answer.body["msg"] == "no GC here"
    assert [container.netns.names() for container in containers] == [set(), set(), {"eth2"}]
    assert case.ours.call("GC", conf).code == 7
    ipam.with_name("fail-GC").unlink()
    assert case.ours.call("GC", conf | {"name": "another", "cni.dev/valid-attachments": []}).ok == {}
    assert case.attachments() == []


def test_many_at_once(case: Case) -> None:
    """All ADDs of sixteen containers at once, and all their DELs: nobody waits for ever, nobody shares an address."""
    conf = case.conf(isGateway=True, ipMasq=True, hairpinMode=True)
    containers = [case.container() for _ in range(16)]
    with ThreadPoolExecutor(len(containers)) as pool:
        results = list(pool.map(lambda one: one.add(conf), containers))
        assert len({result["ips"][0]["address"] for result in results}) == len(containers)
        first, last = (results[n]["ips"][0]["address"].partition("/")[0] for n in (0, -1))
        ping(containers[0].netns, first, containers[-1].netns, last)
        list(pool.map(lambda one: one.delete(conf), containers))
    case.assert_nothing_left(containers[0])
    assert all(container.netns.names() == set() for container in containers)


def test_daemon_down(case: Case) -> None:
    conf = case.conf(isGateway=True, socket="/nowhere/vethd.sock")
    container = case.container()
    for command in ("ADD", "CHECK"):
        prev = {"interfaces": [{"name": "eth0", "sandbox": str(container.netns.path)}]}
        answer = container.call(command, conf | ({"prevResult": prev, "ipam": {}} if command == "CHECK" else {}))
        assert answer.body == {
            "cniVersion": "1.0.0",
            "code": 50,
            "msg": f"vethd does not answer at /nowhere/vethd.sock.fd: {os.strerror(errno.ENOENT)}",
        }
        assert case.leased() == set()
    container.add(conf | {"socket": str(case.site.socket)})
    answer = container.call("DEL", conf)
    assert (answer.ok, case.leased()) == ({}, set())
    assert "does not answer" in answer.log
    container.delete(conf | {"socket": str(case.site.socket)})


def test_daemon_stuck(case: Case) -> None:
    """It is given a second."""
    container = case.container()
    with case.site.daemon.stopped():
        started = time.monotonic()
        answer = container.call("ADD", case.conf())
        took_s = time.monotonic() - started
    assert (answer.code, took_s >= 1.0) == (50, True)
    print(f"a stuck daemon was told of after {took_s:.2f} s")


BUSY = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
listener.listen(8)
print("ready", flush=True)
for delay_s in (2.0, 0.0):
    sock = listener.accept()[0]
    end = time.monotonic() + delay_s
    while time.monotonic() < end:
        pass
    sock.recv(1000)
    sock.send(b'{"status":200,"body":{}}')
    sock.close()
"""


def test_daemon_busy(case: Case) -> None:
    """One that is at work is not down, however long a machine with too much to do lets it wait."""
    path = case.directory / "busy.sock"
    argv = [sys.executable, "-c", BUSY, f"{path}.fd"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == b"ready\n"
        assert case.ours.call("STATUS", case.conf(**MODERN, ipam={}, socket=str(path))).ok == {}


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ({"command": ""}, 4, "CNI_COMMAND"),
        ({"command": "MAKE"}, 4, "MAKE"),
        ({"containerid": ""}, 4, "CNI_CONTAINERID"),
        ({"containerid": "a b"}, 4, "CNI_CONTAINERID"),
        ({"ifname": "x" * 16}, 4, "CNI_IFNAME"),
        ({"ifname": "a/b"}, 4, "CNI_IFNAME"),
        ({"netns": ""}, 4, "CNI_NETNS"),
        ({"netns": "/nowhere"}, 4, "CNI_NETNS"),
        ({"netns": "/dev/null"}, 100, "network namespace"),
        ({"conf": b"{"}, 6, "netconf"),
        ({"conf": b"[]"}, 6, "object"),
        ({"cniVersion": "0.2.0"}, 1, "0.2.0"),
        ({"cniVersion": "2.0.0"}, 1, "1.1.0"),
        ({"name": ""}, 7, "name"),
        ({"name": "a/b"}, 7, "name"),
        ({"mtu": "9000"}, 7, "mtu"),
        ({"mtu": True}, 7, "mtu"),
        ({"mode": "macvlan"}, 7, "macvlan"),
        ({"mode": "ptp", "ipam": {}}, 7, "ipam"),
        ({"hairpinMode": True, "promiscMode": True}, 7, "promiscMode"),
        ({"macspoofchk": "yes"}, 7, "macspoofchk"),
        ({"disableContainerInterface": True}, 7, "ipam"),
        ({"ipMasqBackend": "ebtables"}, 7, "ebtables"),
        ({"vlan": 5000}, 7, "vlan"),
        ({"vlanTrunk": [{"minID": 5}]}, 7, "maxID"),
        ({"vlanTrunk": [{"minID": 5, "maxID": 4}]}, 7, "vlanTrunk"),
        ({"vlanTrunk": [{"id": 0}]}, 7, "vlanTrunk"),
        ({"vlanTrunk": [5]}, 7, "vlanTrunk"),
        ({"vlanTrunk": {"id": 5}}, 7, "vlanTrunk"),
        ({"vlan": 5, "ipam": {}}, 100, "VLAN"),
        ({"ipam": {"type": "none"}}, 4, "CNI_PATH"),
        ({"ipam": {"type": "../bin/sh"}}, 7, "ipam"),
        ({"bridge": "x" * 16}, 100, "15 bytes"),
        ({"args": {"cni": {"mac": "01:00:00:00:00:00"}}}, 100, "unicast"),
    ],
    ids=lambda value: "" if isinstance(value, int) else str(value)[:30],
)
def test_mistakes(case: Case, said: dict[str, Any], code: int, words: str) -> None:
    said = dict(said)
    command, data = said.pop("command", "ADD"), said.pop("conf", None)
    container = case.container()
    variables = {"containerid": container.id, "netns": str(container.netns.path), "ifname": "eth0"}
    variables |= {key: said.pop(key) for key in list(said) if key in variables}
    answer = case.ours.call(command, data if data is not None else case.conf(**said), **variables)
    assert (answer.code, words in answer.body["msg"]) == (code, True), answer
    case.assert_nothing_left(container)


def test_restarted_daemon_knows_its_attachments(root: None, tmp_path: Path) -> None:  # noqa: ARG001 - see conftest.py
    """The container goes on, CHECK finds it as it was, and DEL deletes it."""
    (tmp_path / "site").mkdir()
    with make_site(tmp_path / "site") as (site, lab), FdStore(tmp_path / "store") as store:

        def live(number: int, act: Callable[[], None]) -> None:
            path = tmp_path / f"launch{number}"
            with Supervisor(path, store.fds(), store.environ, supervised=False) as supervisor:
                site.program = (*supervisor.prefix(), *PROGRAM)
                site.start()
                act()
                site.kill()

        case = Case(site, lab, tmp_path)
        conf = case.conf(isGateway=True)
        container = case.container()
        result: dict[str, Any] = {}
        live(1, lambda: result.update(container.add(conf)))
        before = case.ours.netns.names()

        def after() -> None:
            assert case.ours.netns.names() == before
            assert [one["container"] for one in case.attachments()] == [container.id]
            ping(case.ours.netns, f"{SUBNET}.1", container.netns, f"{SUBNET}.2")
            assert container.call("CHECK", conf | {"prevResult": result}).ok == {}
            container.delete(conf)
            case.assert_nothing_left(container)

        live(2, after)
        case.clear()
