"""What vethd-ip shows of links: the real ip's output, in which vethd's are veths."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import pytest

from tests.lib.ip_door import Caller, Done
from tests.lib.lab import lab as make_lab
from tests.lib.netns import Netns
from tests.lib.site import Site
from vethd.clients.ip.install import find_real, install

REAL = find_real()


@pytest.fixture(scope="module")
def call(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    return Caller(install(tmp_path_factory.mktemp("bin"), REAL), site.socket)


@pytest.fixture(scope="module")
def a(call: Caller, site: Site) -> Iterator[Netns]:
    """Yield a namespace with va, whose peer vb is here, too, vc, whose peer is in another, and two links of others."""
    with make_lab(site) as lab:
        here, there = lab.netns("a"), lab.netns("b")
        here.ip("tuntap add mode tap name tap9", "link add br0 type bridge")
        for line in (
            "link add va address 02:00:00:00:00:01 type veth peer name vb",
            f"link add vc up mtu 1400 type veth peer name eth0 netns {there.name}",
        ):
            assert call(here, line) == Done(0, "", "")
        yield here
        here.ip("tuntap del mode tap name tap9", "link del br0", "link del va", "link del vc")


def index_of(call: Caller, netns: Netns, name: str) -> int:
    return int(json.loads(call.run(netns, REAL, "-j", "link", "show", name).out)[0]["ifindex"])


KIND = re.compile(r"tun type tap .*?persist (on|off) ")
TEXTS = ["", "-d", "-o -d", "-d -s -s", "-c=always", "-d -c=always -o", "-6"]


@pytest.mark.parametrize("options", TEXTS)
@pytest.mark.parametrize("words", ["", "ls va", "show dev vc", "sh up"])
def test_text_differs_in_two_places(call: Caller, a: Netns, options: str, words: str) -> None:
    """All else is the real ip's, to the byte."""
    there = Netns(next(link["netns"] for link in links(call, a) if link["name"] == "eth0"))
    peers = {"va": "vb", "vb": "va", "vc": f"if{index_of(call, there, 'eth0')}"}
    expected = call.run(a, REAL, *f"{options} link {words}".split())
    golden = []
    for line in expected.out.splitlines(keepends=True):
        head = re.match(r"(\d+: (?:\x1b\[[0-9;]*m)*)(\w+)(: .*)", line, re.DOTALL)
        if head:
            ours = head[2] in peers
            line = f"{head[1]}{head[2]}@{peers[head[2]]}{head[3]}" if ours else line  # noqa: PLW2901 - edited
        golden.append(KIND.sub("veth ", line) if ours else line)
    assert call(a, f"{options} link {words}") == Done(expected.status, "".join(golden), expected.err)


def links(call: Caller, netns: Netns) -> list[dict[str, str]]:
    """Ask the daemon for its links."""
    code = (
        "import json, sys; from vethd.control import Client\n"
        "print(json.dumps([{'name': one.name, 'netns': one.netns} for one in Client(sys.argv[1]).links()]))"
    )
    return list(json.loads(call.run(netns, sys.executable, "-c", code, str(call.socket)).out))


def test_brief(call: Caller, a: Netns) -> None:
    """The column stays 16 wide."""
    expected = call.run(a, REAL, "-br", "link", "show", "va").out
    assert call(a, "-br link show va").out == expected.replace("va   ", "va@vb", 1)
    coloured = call.run(a, REAL, "-c=always", "-br", "link", "show", "va").out
    assert call(a, "-c=always -br link show va").out == coloured.replace("va   ", "va@vb", 1)
    assert call(a, "-br link show lo").out == call.run(a, REAL, "-br", "link", "show", "lo").out


@pytest.mark.parametrize("options", ["", "-d", "-br", "-j", "-d -j", "-j -br", "-j -p", "-o -s"])
def test_type_veth(call: Caller, a: Netns, options: str) -> None:
    """Ours, and nobody else's."""
    done = call(a, f"{options} link show type veth")
    assert (done.status, done.err) == (0, "")
    if "-j" in options:
        names = {row["ifname"] for row in json.loads(done.out)}
    else:
        names = set(re.findall(r"^(?:\d+: )?(\w+)@", done.out, re.MULTILINE))
        assert "tap9" not in done.out
    assert names == {"va", "vb", "vc"}
    assert "tap9" in call(a, "link show type tun").out


def test_json(call: Caller, a: Netns) -> None:
    """The peer is where a veth has it; the id of its namespace is the kernel's."""
    rows = {row["ifname"]: row for row in json.loads(call(a, "-d -j link").out)}
    assert rows["va"]["link"] == "vb"
    assert rows["vb"]["link"] == "va"
    assert "link" not in rows["vc"]
    ids = json.loads(call.run(a, REAL, "-j", "netns", "list-id").out)
    assert rows["vc"]["link_netnsid"] in [row["nsid"] for row in ids]
    assert [rows[name]["linkinfo"]["info_kind"] for name in ("va", "vb", "vc", "tap9", "br0")] == [
        *["veth"] * 3,
        "tun",
        "bridge",
    ]
    assert list(rows["vc"])[:3] == ["ifindex", "link_index", "ifname"]


def test_what_is_not_ours_is_the_real_ips(call: Caller, a: Netns) -> None:
    for line in (
        "link show lo",
        "-d link show tap9",
        "link show nowhere",
        "addr show va",
        "-V",
        "link help",
        "rule",
        "x",
    ):
        assert call(a, line) == call.run(a, REAL, *line.split()), line
