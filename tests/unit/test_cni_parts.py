"""The CNI plugin without a machine: its JSON, its addresses, results of each version, rules, and the file it is in."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import posix
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vethd.clients.cni import bandwidth, ipam, nft, operations, text
from vethd.clients.cni import conf as conf_module
from vethd.clients.cni.addresses import AddressError, Subnet
from vethd.clients.cni.conf import Conf
from vethd.clients.cni.errors import CniError
from vethd.clients.cni.install import install, is_ours
from vethd.clients.cni.masquerade import Masquerade
from vethd.clients.cni.result import Addressing, compose, shaped
from vethd.clients.single import InstallError
from vethd.kernel.bridge import vlan_entries, vlan_message
from vethd.model.api import AttachmentKey
from vethd.model.attachment import BURST_S_MAX, Attachment, BridgeSpec, IPSpec, RouteSpec, validate_attachment
from vethd.model.errors import VethError

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
CONF = {"cniVersion": "1.0.0", "name": "net", "type": "vethd-cni", "ipam": {"type": "host-local"}}


def conf(command: str = "ADD", **said: Any) -> Conf:
    return Conf(json.dumps(CONF | said).encode(), command)


class TestText:
    @given(NESTED)
    def test_is_json(self, value: Any) -> None:
        assert json.loads(text.encode(value)) == value
        assert text.decode(json.dumps(value, indent=1).encode()) == value
        assert (
            text.decode(b" \n" + json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\t")
            == value
        )

    @pytest.mark.parametrize(
        "data", [b"", b"{", b"{]", b"nul", b"{} {}", b'{"a": }', b'{"a" 1}', b'"\n"', b"\xff", b"NaN", b"[" * 100_000]
    )
    def test_is_nothing_else(self, data: bytes) -> None:
        with pytest.raises(ValueError, match=r"."):
            text.decode(data)

    def test_a_mistake_is_told_with_its_place_where_nothing_else_is_imported(self) -> None:
        """As the plugin runs: the scanner alone raises nothing then."""
        code = (
            f"import sys; sys.path.insert(0, {os.getcwd()!r}); from vethd.clients.cni import text; text.decode(b'{{]')"  # noqa: PTH109
        )
        ran = subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True, check=False)
        with pytest.raises(json.JSONDecodeError) as oracle:
            json.loads("{]")
        assert str(oracle.value) in ran.stderr


class TestSubnet:
    @given(st.ip_addresses(), st.integers(0, 128))
    def test_is_ipaddress(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int) -> None:
        prefix %= address.max_prefixlen + 1
        subnet, oracle = Subnet(f"{address}/{prefix}"), ipaddress.ip_interface(f"{address}/{prefix}")
        assert ipaddress.ip_network(subnet.network()) == oracle.network
        assert subnet.version == oracle.version
        if prefix < address.max_prefixlen:
            assert ipaddress.ip_address(subnet.first()) == oracle.network.network_address + 1

    @pytest.mark.parametrize(
        "said", ["", "10.0.0.1", "10.0.0.1/", "10.0.0.1/33", "10.0.0/8", "::/129", "x/8", "1.2.3.4/-1", "a\0/1"]
    )
    def test_is_nothing_else(self, said: str) -> None:
        with pytest.raises(AddressError):
            Subnet(said)


class TestConf:
    def test_defaults(self) -> None:
        read = conf()
        assert (read.mode, read.bridge, read.mtu, read.ipam, read.prev) == ("bridge", "cni0", 0, "host-local", None)
        assert not any(read.flags.values())

    def test_default_gateway_is_a_gateway(self) -> None:
        assert conf(isDefaultGateway=True).flags["isGateway"]

    def test_trunk(self) -> None:
        items = [{"minID": 10, "maxID": 20, "id": 5}, {"id": 7}, {}]
        assert conf(vlanTrunk=items).trunk == [(10, 20), (5, 5), (7, 7)]

    def test_mode_ptp_leaves_a_bridges_options_alone(self) -> None:
        said: dict[str, Any] = {"macspoofchk": True, "portIsolation": True, "disableContainerInterface": True}
        assert not any(conf(mode="ptp", **said).flags.values())

    @pytest.mark.parametrize("command", ["STATUS", "GC"])
    def test_what_came_later_is_not_for_older_versions(self, command: str) -> None:
        with pytest.raises(CniError) as caught:
            conf(command)
        assert caught.value.code == 1
        assert conf(command, cniVersion="1.1.0").version == "1.1.0"

    def test_null_is_unsaid(self) -> None:
        assert conf(mtu=None, bridge=None, ipam=None).ipam == ""

    @pytest.mark.parametrize("version", [None, 1, "", "0.3.0", "1.2.0", []])
    def test_version(self, version: Any) -> None:
        with pytest.raises(CniError) as caught:
            conf(cniVersion=version)
        assert caught.value.code == 1

    @pytest.mark.parametrize(
        ("word", "fine"),
        [("a", True), ("a.b_c-1", True), ("", False), ("-a", False), (".", False), ("a b", False), ("ä", False)],
    )
    def test_words(self, word: str, fine: bool) -> None:
        assert conf_module.is_word(word) is fine


class Env:
    netns = "/run/netns/x"
    ifname = "eth0"


MADE = {
    "bridge": {"name": "cni0", "address": "02:00:00:00:00:01", "mtu": 1500},
    "host": {"name": "veth0", "address": "02:00:00:00:00:02", "mtu": 1500},
    "container": {"name": "eth0", "address": "02:00:00:00:00:03", "mtu": 1500},
    "vlan": None,
}


class TestResult:
    def result(self, said: Conf, given: dict[str, Any], made: dict[str, Any] | None = None) -> dict[str, Any]:
        return shaped(compose(said, Env(), made or MADE, Addressing(said, given)), said.version)  # type: ignore[arg-type]

    def test_1_1(self) -> None:
        given = {"ips": [{"address": "10.0.0.2/8"}], "routes": [{"dst": "0.0.0.0/0", "mtu": 1400, "extra": 1}]}
        told = self.result(conf(cniVersion="1.1.0", isGateway=True), given)
        assert told["interfaces"][2] == {
            "name": "eth0",
            "mac": "02:00:00:00:00:03",
            "mtu": 1500,
            "sandbox": "/run/netns/x",
        }
        assert told["ips"] == [{"interface": 2, "address": "10.0.0.2/8", "gateway": "10.0.0.1"}]
        assert told["routes"] == [{"dst": "0.0.0.0/0", "mtu": 1400}]

    def test_1_0(self) -> None:
        given = {"ips": [{"version": "4", "address": "10.0.0.2/8"}], "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}]}
        told = self.result(conf(), given)
        assert told["interfaces"][0] == {"name": "cni0", "mac": "02:00:00:00:00:01"}
        assert told["ips"] == [{"interface": 2, "address": "10.0.0.2/8"}]
        assert told["routes"] == [{"dst": "0.0.0.0/0"}]

    @pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
    def test_older(self, version: str) -> None:
        given = {"ips": [{"address": "10.0.0.2/8"}, {"address": "fd00::2/64"}]}
        told = self.result(conf(cniVersion=version), given)
        assert [ip["version"] for ip in told["ips"]] == ["4", "6"]
        assert "routes" not in told

    def test_vlan_device_comes_last(self) -> None:
        device = {"name": "cni0.5", "address": "02:00:00:00:00:04", "mtu": 1500}
        told = self.result(conf(vlan=5, isGateway=True), {"ips": [{"address": "10.0.0.2/8"}]}, MADE | {"vlan": device})
        assert [link["name"] for link in told["interfaces"]] == ["cni0", "veth0", "eth0", "cni0.5"]
        assert told["ips"][0]["interface"] == 2

    def test_routed_has_no_bridge(self) -> None:
        told = self.result(
            conf(mode="ptp"), {"ips": [{"address": "10.0.0.2/8", "gateway": "10.0.0.1"}]}, MADE | {"bridge": None}
        )
        assert [link["name"] for link in told["interfaces"]] == ["veth0", "eth0"]
        assert told["ips"][0]["interface"] == 1

    def test_previous_result_is_passed_through(self) -> None:
        before: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "lo", "sandbox": "/x"}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0}],
            "routes": [{"dst": "10.1.0.0/16"}],
            "dns": {"domain": "a"},
        }
        told = self.result(conf(prevResult=before), {"ips": [{"address": "10.0.0.2/8"}]})
        assert told["interfaces"][0] == before["interfaces"][0]
        assert [ip["interface"] for ip in told["ips"]] == [0, 3]
        assert (told["routes"], told["dns"]) == (before["routes"], {"domain": "a"})

    @pytest.mark.parametrize("before", [{"interfaces": 1}, {"ips": [1]}, {"routes": "a"}])
    def test_nonsense_before_us(self, before: dict[str, Any]) -> None:
        with pytest.raises(CniError) as caught:
            self.result(conf(prevResult=before), {})
        assert caught.value.code == 7

    def test_default_route_unless_ipam_has_one_with_a_gateway(self) -> None:
        said = conf(isDefaultGateway=True)
        ips = [{"address": "10.0.0.2/8"}]
        own = [{"dst": "0.0.0.0/0", "gw": "10.0.0.9"}]
        assert Addressing(said, {"ips": ips}).routes == [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]
        assert Addressing(said, {"ips": ips, "routes": own}).routes == own

    @pytest.mark.parametrize(
        "given", [{"ips": 1}, {"ips": [1]}, {"ips": [{}]}, {"ips": [{"address": "x"}]}, {"routes": {"a": 1}}]
    )
    def test_nonsense_of_ipam(self, given: dict[str, Any]) -> None:
        with pytest.raises(CniError) as caught:
            Addressing(conf(), given)
        assert caught.value.code == 101


class TestMasquerade:
    def test_table(self) -> None:
        rules = Masquerade("net", "c.1", "eth@0").nft_rules([Subnet("10.0.0.2/8"), Subnet("fd00::2/64")])
        table = "inet vethd-cni/net/c.1/eth_40_0"
        assert rules.splitlines()[:3] == [f"add table {table}", f"delete table {table}", f"add table {table}"]
        assert "ip saddr 10.0.0.2 ip daddr != { 10.0.0.0/8, 224.0.0.0/4 } masquerade" in rules
        assert "ip6 saddr fd00::2 ip6 daddr != { fd00::/64, ff00::/8 } masquerade" in rules

    def test_chain_is_short_and_of_one_attachment(self) -> None:
        chains = {Masquerade("net", "c", name).chain() for name in ("eth0", "eth1")}
        assert len(chains) == 2
        assert all(len(chain) <= 28 for chain in chains)


class TestInstall:
    def call(self, file: Path, **environ: str) -> tuple[int, Any]:
        ran = subprocess.run([file], input=b"{}", env=environ, capture_output=True, check=False)
        assert ran.stderr == b""
        return ran.returncode, json.loads(ran.stdout)

    def test_file_runs_by_itself(self, tmp_path: Path) -> None:
        file = install(tmp_path)
        assert is_ours(file)
        assert [path.name for path in tmp_path.iterdir()] == ["vethd-cni"]
        status, told = self.call(file, CNI_COMMAND="VERSION")
        assert (status, told["supportedVersions"]) == (0, ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
        assert install(tmp_path) == file

    def test_every_way_to_fail_is_json(self, tmp_path: Path) -> None:
        file = install(tmp_path)
        for environ in ({}, {"CNI_COMMAND": "ADD"}, {"CNI_COMMAND": "STATUS"}, {"CNI_COMMAND": "x"}):
            status, told = self.call(file, **environ)
            assert (status, set(told)) == (1, {"cniVersion", "code", "msg"})

    def test_nothing_is_imported_that_takes_long(self, tmp_path: Path) -> None:
        file = install(tmp_path)
        environ = {"CNI_COMMAND": "VERSION"}
        argv = [sys.executable, "-X", "importtime", "-IS", str(file)]
        ran = subprocess.run(argv, input="{}", env=environ, capture_output=True, text=True, check=False)
        imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
        assert "_json" in imported
        assert not imported & {"json", "re", "typing", "os", "socket", "subprocess", "ctypes", "hashlib", "ipaddress"}

    def test_what_is_not_ours_stays(self, tmp_path: Path) -> None:
        (tmp_path / "vethd-cni").write_text("mine")
        with pytest.raises(InstallError, match="stays"):
            install(tmp_path)
        assert (tmp_path / "vethd-cni").read_text() == "mine"

    def test_no_such_directory(self, tmp_path: Path) -> None:
        with pytest.raises(InstallError, match=os.strerror(errno.ENOENT)):
            install(tmp_path / "none")


def attachment(**said: Any) -> Attachment:
    return Attachment(network="net", container="c", ifname="eth0", netns="fd:0", **said)


class TestAttachment:
    def test_key(self) -> None:
        assert attachment().key == AttachmentKey("net", "c", "eth0")
        assert str(attachment().key) == "net/c/eth0"

    def test_pair(self) -> None:
        pair = attachment(host_netns="fd:1", address="02:00:00:00:00:01", mtu=1400, bridge=BridgeSpec(name="br")).pair()
        assert (pair.netns, pair.master, pair.up, pair.mtu, pair.address) == ("fd:1", "br", None, 1400, None)
        assert pair.peer is not None
        assert (pair.peer.name, pair.peer.address, pair.peer.mtu) == ("eth0", "02:00:00:00:00:01", 1400)

    @pytest.mark.parametrize(
        "said",
        [
            {"network": "a b"},
            {"container": ""},
            {"container": "x" * 256},
            {"ifname": "a/b"},
            {"ifname": "eth%d"},
            {"bridge": BridgeSpec(name="a/b")},
            {"bridge": BridgeSpec(name="br", vlan=0)},
            {"bridge": BridgeSpec(name="br", vlan=4095)},
            {"bridge": BridgeSpec(name="br", trunk=[(0, 1)])},
            {"bridge": BridgeSpec(name="br", trunk=[(9, 8)])},
            {"bridge": BridgeSpec(name="b" * 12, vlan=100, gateways=["10.0.0.1/8"])},
            {"ips": [IPSpec(address="10.0.0.1/8", gateway="10.0.0.2")], "up": False},
            {"bridge": BridgeSpec(name="br", gateways=["10.0.0.1"])},
            {"bridge": BridgeSpec(name="br", gateways=["10.0.0.1/8"] * 65)},
            {"ips": [IPSpec(address="10.0.0.1/8")]},
            {"ips": [IPSpec(address="10.0.0.1/8", gateway="::1")]},
            {"ips": [IPSpec(address="10.0.0.1/8", gateway="x")]},
            {"ips": [IPSpec(address="10.0.0.1/99", gateway="10.0.0.2")]},
            {"routes": [RouteSpec(dst="x")]},
            {"routes": [RouteSpec(dst="0.0.0.0/0", gw="::1")]},
            {"routes": [RouteSpec(dst="0.0.0.0/0", mtu=-1)]},
            {"routes": [RouteSpec(dst="0.0.0.0/0", table=1 << 32)]},
            {"routes": [RouteSpec(dst="0.0.0.0/0", scope=256)]},
        ],
    )
    def test_mistakes(self, said: dict[str, Any]) -> None:
        with pytest.raises(VethError):
            validate_attachment(msgspec.structs.replace(attachment(), **said))

    @pytest.mark.parametrize(
        ("said", "entries"),
        [
            ({"vlan": 7}, [(0x2 | 0x4, 7)]),
            ({"trunk": [(3, 3), (10, 20)]}, [(0, 3), (0x8, 10), (0x10, 20), (0x2 | 0x4, 1)]),
            ({"vlan": 7, "trunk": [(7, 7)]}, [(0, 7), (0x2 | 0x4, 7)]),
        ],
    )
    def test_vlan_request(self, said: dict[str, Any], entries: list[tuple[int, int]]) -> None:
        """What `bridge vlan add` sends: struct ifinfomsg, then IFLA_AF_SPEC. The VLAN of untagged frames comes last."""
        message = vlan_message(5, vlan_entries(BridgeSpec(name="br", **said)))
        family, ifindex = struct.unpack_from("=BxHi", message)[0], struct.unpack_from("=4xi", message)[0]
        assert (family, ifindex) == (7, 5)
        length, kind = struct.unpack_from("=2H", message, 16)
        assert (length, kind & 0x7FFF) == (4 + 8 * len(entries), 26)
        sent = [struct.unpack_from("=4H", message, 20 + 8 * number) for number in range(len(entries))]
        assert sent == [(8, 2, flags, vid) for flags, vid in entries]


def test_del_returns_the_lease_where_nft_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot_start(_script: str) -> None:
        raise OSError(errno.ENOEXEC, "Exec format error")

    calls: list[str] = []
    monkeypatch.setattr(nft, "start", cannot_start)
    monkeypatch.setattr(operations, "daemon", lambda _asked: None)
    monkeypatch.setattr(ipam, "call", lambda _conf, command: calls.append(command))
    for key, value in {"COMMAND": "DEL", "CONTAINERID": "c1", "IFNAME": "eth0"}.items():
        monkeypatch.setitem(posix.environ, b"CNI_" + key.encode(), value.encode())
    with pytest.raises(CniError, match="Exec format error"):
        operations.delete(Conf(json.dumps(CONF | {"ipMasq": True}).encode(), "DEL"), conf_module.Env())
    assert calls == ["DEL"]


@pytest.mark.parametrize("own", [{}, {"ingressRate": 8000, "ingressBurst": 800}])
def test_the_limits_of_the_configuration_come_before_the_runtimes(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, int]
) -> None:
    """As in the reference plugin, which takes all or none of the runtime's."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(bandwidth, "daemon", lambda request, *_: asked.append(json.loads(request)["body"]))
    env: Any = SimpleNamespace(container="c1", ifname="eth0")
    limits = {"runtimeConfig": {"bandwidth": {"egressRate": 16000, "egressBurst": 1600}}, "prevResult": {}}
    bandwidth.add(Conf(json.dumps(CONF | {"mode": "bandwidth"} | limits | own).encode(), "ADD"), env)
    assert (asked[0]["ingress_rate"], asked[0]["egress_rate"]) == ((8000, 0) if own else (0, 16000))


def test_limits_as_containerd_and_cri_o_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with a capital, and a burst without end."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(bandwidth, "daemon", lambda request, *_: asked.append(json.loads(request)["body"]))
    env: Any = SimpleNamespace(container="c1", ifname="eth0")
    limits = {"IngressRate": 16000, "IngressBurst": 2**32 - 1, "EgressRate": 10**9, "EgressBurst": 2**32 - 1}
    conf = CONF | {"mode": "bandwidth", "runtimeConfig": {"bandwidth": limits}, "prevResult": {}}
    bandwidth.add(Conf(json.dumps(conf).encode(), "ADD"), env)
    (got,) = asked
    assert (got["ingress_rate"], got["ingress_burst"]) == (16000, 16000 * BURST_S_MAX)
    assert (got["egress_rate"], got["egress_burst"]) == (10**9, 2**32 - 1)
