"""An installed vethd on a kernel that has no veth: `python -m tests.lib.without_veth`.

A program, as this machine's kernel may have one: tests/system/test_without_veth.py runs it in a virtual machine, where
`make install` has put vethd. It prints a line for each step that it proved, and ends with an AssertionError at the
first that fails.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lib import daemon
from tests.lib.cni import BRIDGE, REFERENCE, SUBNET, Container, Host
from tests.lib.ip_door import Caller
from tests.lib.lab import Lab, Wire
from tests.lib.programs import echoes, running
from tests.lib.programs import ping as run_ping
from tests.lib.site import Site
from tests.lib.site import site as make_site
from tests.lib.sockets import tcp_transfer
from tests.lib.wait import wait_until

PREFIX = Path("/usr/local")
IP = PREFIX / "lib" / "vethd" / "ip" / "ip"
PLUGINS = Path("/opt/cni/bin")
ENGINES = ("native", "asyncio")
PATIENT = 19
FIRST = ("nice", "-n", str(-PATIENT))  # who asks whether the daemon answers yet must not keep it from getting there
LEN_BYTES = 1 << 20
SESSION = ("ping", "TCP", "oversize", "carrier", "end of a namespace")
STEPS = (
    "no veth",
    "doctor",
    *(f"{engine}: {step}" for engine in ENGINES for step in SESSION),
    "vethd-ip",
    "CNI",
    "restart: same links",
    "kill: same links",
)
"""What main() prints when all is proved, in this order, among other lines."""
EMULATED_START_S = 240.0  # the guest's CPU is interpreted, on a machine that may be busy


def proved(step: str) -> None:
    """Tell the test outside."""
    print(step, flush=True)


def vethctl(site: Site, *words: str) -> Any:
    """Run vethctl, and return the JSON that it printed, if any. Raises AssertionError where it fails."""
    argv = [str(PREFIX / "bin" / "vethctl"), "--socket", str(site.socket), *words]
    said = site.home.command(*argv)
    return json.loads(said) if "--json" in words else None


@contextmanager
def place(engine: str) -> Iterator[tuple[Site, Lab]]:
    """Yield a site whose daemon is the installed one, started."""
    with tempfile.TemporaryDirectory(prefix="vethd-site-") as name, make_site(Path(name), engine) as (site, lab):
        site.program = (*FIRST, str(PREFIX / "bin" / "vethd"))
        site.start()
        yield site, lab


def added(site: Site, lab: Lab) -> tuple[Wire, str, str]:
    """Make the pair of README.md's first session with vethctl; return it, and its ends' addresses."""
    red, blue = lab.netns("red"), lab.netns("blue")
    where = f"--netns {red.name} --up --peer vb --peer-netns {blue.name} --peer-up".split()
    vethctl(site, "add", "va", *where)
    wire = lab.wire(red, blue)
    wire.wait_carrier()
    return wire, *wire.addresses()


def check_kernel() -> None:
    """The kernel cannot make a veth, and vethd can run on it."""
    argv = ["ip", "link", "add", "va", "type", "veth", "peer", "name", "vb"]
    refused = subprocess.run(argv, capture_output=True, text=True, check=False)
    print(f"ip link add: {refused.returncode}: {refused.stderr.strip()}")
    assert refused.returncode != 0
    proved("no veth")
    argv = [str(PREFIX / "bin" / "vethctl"), "doctor", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    for check in checks.values():
        print(f"doctor: {check['name']}: {'ok' if check['ok'] else 'not ok'}: {check['detail']}")
    assert done.returncode == 0, done.stderr
    assert not checks["kernel veth"]["ok"]
    assert checks["engine native"]["ok"]
    proved("doctor")


def check_session(site: Site, lab: Lab) -> None:
    """README.md's first session."""
    wire, near, far = added(site, lab)
    red, blue = wire.a.netns, wire.b.netns
    assert echoes(red, 2, far) == 2
    proved(f"{site.engine}: ping")
    payload = random.Random(1).randbytes(LEN_BYTES)
    assert tcp_transfer(red, blue, far, payload) == payload
    assert tcp_transfer(blue, red, near, payload) == payload
    proved(f"{site.engine}: TCP")
    wire.a.set("mtu 9000")
    assert run_ping(red, "-c", "1", "-W", "1", "-s", "8000", far).received == 0
    drops = next(link["drops"] for link in vethctl(site, "stats", "--json") if link["name"] == "va")
    assert sum(count for reason, count in drops.items() if reason.endswith("oversize")) > 0, drops
    proved(f"{site.engine}: oversize")
    wire.b.down()
    wire.a.wait_carrier(on=False)
    wire.b.up()
    wire.wait_carrier()
    assert echoes(red, 1, far) == 1
    proved(f"{site.engine}: carrier")
    site.home.ip(f"netns del {blue.name}")
    wire.a.wait_gone()
    assert vethctl(site, "show", "--json") == []
    proved(f"{site.engine}: end of a namespace")


def check_ip(site: Site, lab: Lab) -> None:
    """The words of `ip` that the kernel refuses, with vethd's ip first on PATH."""
    red, blue = lab.netns("red"), lab.netns("blue")
    caller = Caller(IP, site.socket)
    for line in (
        "ip link add va type veth peer name vb",
        f"ip link set vb netns {blue.name}",
        "ip address add 10.9.0.1/24 dev va",
        f"ip -n {blue.name} address add 10.9.0.2/24 dev vb",
        "ip link set va up",
        f"ip -n {blue.name} link set vb up",
    ):
        done = caller.run(red, *line.split())
        assert done.status == 0, f"{line}: {done}"
    lab.wire(red, blue).wait_carrier()
    assert echoes(red, 1, "10.9.0.2") == 1
    shown = caller.run(red, "ip", "-details", "-json", "link", "show", "type", "veth")
    assert [link["ifname"] for link in json.loads(shown.out)] == ["va"], shown
    assert caller.run(red, "ip", "link", "del", "va").status == 0
    assert red.names() == blue.names() == set()
    proved("vethd-ip")


def check_cni(site: Site, lab: Lab) -> None:
    """A runtime's network: vethd's plugin with masquerading, and a reference plugin that goes on from its result."""
    host = Host(site.home, f"{PLUGINS}:{REFERENCE}", {"VETHD_SOCKET": str(site.socket)})
    ipam = {"type": "host-local", "subnet": f"{SUBNET}.0/24", "dataDir": str(site.directory / "leases")}
    network = {
        "cniVersion": "1.0.0",
        "name": "net",
        "plugins": [
            {"type": "vethd-cni", "bridge": BRIDGE, "isDefaultGateway": True, "ipMasq": True, "ipam": ipam},
            {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}},
        ],
    }
    common = {key: network[key] for key in ("cniVersion", "name")}
    plugins = [common | plugin for plugin in network["plugins"]]  # type: ignore[operator]
    containers = [Container(host, lab.netns("c")) for _ in range(2)]
    results = []
    for container in containers:
        result: dict[str, Any] = {}
        for plugin in plugins:
            result = container.add(plugin | ({"prevResult": result} if result else {}))
        results.append(result)
    addresses = [result["ips"][0]["address"].partition("/")[0] for result in results]
    assert echoes(containers[0].netns, 1, addresses[1]) == 1
    assert echoes(containers[0].netns, 1, results[0]["ips"][0]["gateway"]) == 1
    for container, result in zip(containers, results, strict=True):
        for plugin in plugins:
            assert container.call("CHECK", plugin | {"prevResult": result}).ok == {}
        for plugin in reversed(plugins):
            container.delete(plugin | {"prevResult": result})
        assert container.netns.names() == set()
    assert site.home.names() == {BRIDGE}
    site.home.ip(f"link delete {BRIDGE}")
    proved("CNI")


def check_life(site: Site, lab: Lab) -> None:
    """A persistent pair outlives its daemon, stopped or killed, under a ping that never ends."""
    site.configure("persist = true\n")
    site.start()
    wire, _, far = added(site, lab)
    red = wire.a.netns

    def indexes() -> list[int]:
        return [end.link.ifindex for end in (wire.a, wire.b)]

    def answered(since: int) -> bool:
        return red.snmp("Icmp", "InEchoReps") > since + 2

    before = indexes()
    wait_until(lambda: len(list(site.state.glob("devices"))) == 1, what="the devices written down")
    with running(red, "ping", "-n", "-q", "-i", "0.2", far) as program:
        wait_until(lambda: answered(0), what="answers")
        for how, end in (("restart", site.stop), ("kill", site.kill)):
            end()
            site.start()
            assert site.reconciled()["adopted"] == 1
            assert indexes() == before
            wire.wait_carrier()
            seen = red.snmp("Icmp", "InEchoReps")
            wait_until(lambda: answered(seen), what="answers again")  # noqa: B023 - called at once
            proved(f"{how}: same links")
        program.end(signal.SIGINT)
    vethctl(site, "del", "va", "--netns", red.name)


def main() -> None:
    """Run all of it."""
    daemon.START_S = EMULATED_START_S
    os.nice(PATIENT)
    check_kernel()
    for engine in ENGINES:
        with place(engine) as (site, lab):
            check_session(site, lab)
            if engine == "native":
                check_ip(site, lab)
                check_cni(site, lab)
                site.stop()
                check_life(site, lab)


if __name__ == "__main__":
    main()
