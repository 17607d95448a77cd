"""CNI from the runtime's side: plugins called with an environment and a configuration, and what they made looked at."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lib.lab import Lab
from tests.lib.netns import Netns
from tests.lib.site import Site
from vethd.clients.cni.install import install

REFERENCE = Path("/usr/lib/cni")
PATIENCE_S = 60.0
SUBNET = "10.80.0"
BRIDGE = "cni7"
_SCOPES = ("all", "default")


@dataclass(frozen=True)
class Answer:
    """What a plugin said: its exit status, its JSON ({} where it wrote none), and its log."""

    status: int
    body: dict[str, Any]
    log: str

    @property
    def ok(self) -> dict[str, Any]:
        """The result. Raises AssertionError where the plugin failed."""
        assert self.status == 0, f"{self.status} {self.body} {self.log}"
        return self.body

    @property
    def code(self) -> int:
        """The error's code. Raises AssertionError where there is no error, or one without words."""
        assert self.status == 1, f"{self.status} {self.body} {self.log}"
        assert set(self.body) - {"details"} == {"cniVersion", "code", "msg"}
        assert self.body["msg"]
        return int(self.body["code"])


@dataclass
class Host:
    """A host's namespace and what a runtime knows there: plugin directories, where they find the daemon."""

    netns: Netns
    path: str
    environ: Mapping[str, str] = field(default_factory=dict)
    plugin: str = "vethd-cni"

    def call(self, command: str, conf: Any, **said: str) -> Answer:
        """Call the plugin that conf's type names, this host's own where it names none; said are CNI_* variables."""
        if isinstance(conf, dict):
            conf = {"type": self.plugin} | conf
            plugin = conf["type"]
            data = json.dumps(conf).encode()
        else:
            plugin, data = self.plugin, conf
        names = {f"CNI_{key.upper()}": value for key, value in said.items()}
        environ = {"PATH": os.environ["PATH"], "CNI_PATH": self.path, **self.environ, **names}
        if command:
            environ["CNI_COMMAND"] = command
        program = next(
            file for directory in self.path.split(":") for file in [Path(directory, plugin)] if file.exists()
        )
        ran = self.netns.run(
            subprocess.run, [program], input=data, env=environ, capture_output=True, check=False, timeout=PATIENCE_S
        )
        return Answer(ran.returncode, json.loads(ran.stdout) if ran.stdout.strip() else {}, ran.stderr.decode())


@dataclass
class Container:
    """A container: an ID and a namespace."""

    host: Host
    netns: Netns
    name: str = ""

    @property
    def id(self) -> str:
        """Its ID."""
        return self.name or f"c-{self.netns.name}"

    def call(self, command: str, conf: dict[str, Any], ifname: str = "eth0", **said: str) -> Answer:
        """Call the plugin for this container."""
        said = {"containerid": self.id, "netns": str(self.netns.path), "ifname": ifname} | said
        return self.host.call(command, conf, **said)

    def add(self, conf: dict[str, Any], ifname: str = "eth0", **said: str) -> dict[str, Any]:
        """ADD, and return the result."""
        return self.call("ADD", conf, ifname, **said).ok

    def delete(self, conf: dict[str, Any], ifname: str = "eth0", **said: str) -> None:
        """DEL."""
        assert self.call("DEL", conf, ifname, **said).ok == {}


def ip_json(netns: Netns, *words: str) -> list[dict[str, Any]]:
    """Return what `ip -json WORDS` says in a namespace."""
    return list(json.loads(netns.command("ip", "-json", *words) or "[]"))


def addresses(netns: Netns, name: str) -> list[tuple[Any, ...]]:
    """Return a link's addresses, without those that a link gives itself."""
    found = [info for link in ip_json(netns, "address", "show", "dev", name) for info in link["addr_info"]]
    keys = ("family", "local", "prefixlen", "broadcast", "scope")
    return sorted(tuple(info.get(key) for key in keys) for info in found if info["scope"] != "link")


def routes(netns: Netns, name: str) -> list[tuple[Any, ...]]:
    """Return the routes through a link, in the main table, of both families."""
    found = []
    for family in ("-4", "-6"):
        found += ip_json(netns, family, "route", "show", "dev", name)
    keys = ("dst", "gateway", "scope", "prefsrc", "metric")
    return sorted((tuple(route.get(key) for key in keys) for route in found if route["dst"] != "fe80::/64"), key=repr)


def sysctls(netns: Netns, name: str) -> dict[str, str]:
    """Return the sysctls of a link that a plugin may set; of IPv6 none where the link has none."""
    keys = [f"ipv4/conf/{name}/{key}" for key in ("arp_notify", "proxy_arp", "route_localnet", "forwarding")]
    own = ("accept_ra", "accept_dad", "enhanced_dad", "disable_ipv6", "keep_addr_on_down", "ndisc_notify", "forwarding")
    keys += [f"ipv6/conf/{name}/{key}" for key in own]

    def read() -> dict[str, str]:
        paths = [path for key in keys if (path := Path("/proc/sys/net", key)).exists()]
        return {f"{path.parts[4]}/{path.name}": path.read_text().strip() for path in paths}  # "ipv6/accept_ra"

    return netns.run(read)


def port(netns: Netns, name: str) -> dict[str, Any]:
    """Return what is a bridge port's own."""
    info = ip_json(netns, "-details", "link", "show", "dev", name)[0]["linkinfo"]["info_slave_data"]
    return {key: info[key] for key in ("state", "hairpin", "guard", "learning", "flood", "isolated")}


def bridge(netns: Netns, name: str) -> dict[str, Any]:
    """Return what a CNI plugin sets of a bridge."""
    link = ip_json(netns, "-details", "link", "show", "dev", name)[0]
    flags = {flag for flag in link["flags"] if flag in ("UP", "PROMISC", "NO-CARRIER")}
    return {"mtu": link["mtu"], "flags": flags, "kind": link["linkinfo"]["info_kind"], "state": link["operstate"]}


class Case:
    """Two hosts, one with vethd-cni and one with a reference plugin, and what they were asked for."""

    def __init__(self, site: Site, lab: Lab, directory: Path) -> None:
        """Install vethd-cni before the reference plugins."""
        (directory / "bin").mkdir()
        install(directory / "bin")
        self.site = site
        self.lab = lab
        self.directory = directory
        path = f"{directory / 'bin'}:{REFERENCE}"
        self.ours = Host(site.home, path, {"VETHD_SOCKET": str(site.socket)})
        self.theirs = Host(lab.netns("host", ipv6=True), path, plugin="bridge")
        for key in (
            "ipv4/ip_forward",
            "ipv6/conf/all/forwarding",
            *(f"ipv6/conf/{one}/disable_ipv6" for one in _SCOPES),
        ):
            site.home.sysctl(f"net/{key}", "0")

    def conf(self, **said: Any) -> dict[str, Any]:
        """Return a configuration with host-local addresses."""
        return {"cniVersion": "1.0.0", "name": "net", "bridge": BRIDGE, "ipam": self.ipam()} | said

    def ipam(self, *more: str, routes: Any = None) -> dict[str, Any]:
        """Return a host-local of SUBNET and other subnets; by default with a default route."""
        ranges = [[{"subnet": subnet}] for subnet in (f"{SUBNET}.0/24", *more)]
        routes = [{"dst": "0.0.0.0/0"}] if routes is None else routes
        return {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": str(self.directory / "ours")}

    def container(self, host: Host | None = None) -> Container:
        """Make a container, on our own host if not told otherwise."""
        return Container(host or self.ours, self.lab.netns("c", ipv6=True))

    def both(
        self, conf: dict[str, Any], reference: str = "bridge", **said: str
    ) -> list[tuple[Container, dict[str, Any]]]:
        """ADD a container on each host; give containers and results, ours first."""
        self.theirs.plugin = reference
        made = []
        for host in (self.ours, self.theirs):
            container = self.container(host)
            made.append((container, container.add(self.own(conf, host), **said)))
        return made

    def own(self, conf: dict[str, Any], host: Host) -> dict[str, Any]:
        """Return conf as host has it: host-local keeps the books of each apart."""
        if host is self.ours or conf.get("ipam", {}).get("type") != "host-local":
            return conf
        return conf | {"ipam": conf["ipam"] | {"dataDir": str(self.directory / "theirs")}}

    def leased(self) -> set[str]:
        """Return the addresses that our own host-local holds."""
        names = (path.name for path in self.directory.glob("ours/net/*"))
        return {name for name in names if name[0].isdigit() or ":" in name}

    def attachments(self) -> list[Any]:
        """Return what the daemon says is attached."""
        status, body = self.site.daemon.request("GET", "/v1/attachments")
        assert status == 200, body
        return list(body)

    def assert_nothing_left(self, container: Container) -> None:
        """Prove that of an attachment nothing is left: no end, no lease, no rule; the bridge may stay."""
        assert container.netns.names() == set()
        assert self.ours.netns.names() <= {BRIDGE}
        assert self.leased() == set()
        assert self.attachments() == []
        assert self.rules() == ""

    def rules(self) -> str:
        """Return our own host's masquerading."""
        rules = self.ours.netns.command("nft", "list", "ruleset")
        return "\n".join(line for line in rules.splitlines() if "vethd" in line.lower())

    def clear(self) -> None:
        """Take away what stays, as CNI has it: the bridge, and others' empty chains."""
        if BRIDGE in self.ours.netns.names():
            self.ours.netns.ip(f"link delete {BRIDGE}")
        self.ours.netns.command("nft", "flush", "ruleset")


@pytest.fixture(name="case")
def case_fixture(site: Site, lab: Lab, tmp_path: Path) -> Iterator[Case]:
    """Yield the two hosts, cleared away at the end."""
    case = Case(site, lab, tmp_path)
    with ExitStack() as stack:
        stack.callback(case.clear)
        yield case
