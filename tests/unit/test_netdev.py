""".netdev files: what systemd's syntax lets one write, and what is refused, with its line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vethd.model.errors import ConfigError
from vethd.model.netdev import KEYS, read_netdev
from vethd.model.spec import LinkSpec, PairSpec, validate_pair

FILE = "va.netdev"
PLAIN = """\
[NetDev]
Name=va
Kind=veth

[Peer]
Name=vb
"""


def read(text: str) -> PairSpec:
    return read_netdev(text, FILE)


def with_(line: str, section: str = "NetDev") -> str:
    """Return the plain file with one more line, the second or the fifth."""
    return PLAIN.replace(f"[{section}]\n", f"[{section}]\n{line}\n")


def test_a_plain_one() -> None:
    assert read(PLAIN) == PairSpec(name="va", peer=LinkSpec(name="vb"))


def test_all_that_can_be_said() -> None:
    text = with_("MTUBytes=9000\nMACAddress=02:00:00:00:00:01\nDescription=a pair = two ends")
    text += "MACAddress=02:00:00:00:00:02\n"
    peer = LinkSpec(name="vb", address="02:00:00:00:00:02", mtu=9000)
    assert read(text) == PairSpec(name="va", mtu=9000, address="02:00:00:00:00:01", peer=peer)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.rstrip("\n"),
        "# one\n; two\n\n  # three\n" + PLAIN,
        PLAIN.replace("Name=va", " \t Name \t=\t  va \t"),
        PLAIN.replace("[NetDev]", "  [NetDev]  "),
        PLAIN.replace("Name=va", "Name=\\\nva"),
        PLAIN.replace("Name=va", "Name=\\\n# not this = line\n;nor this\n  va"),
        "[Peer]\nName=vb\n[NetDev]\nName=va\n[Peer]\n[NetDev]\nKind=veth\\",
        PLAIN.replace("Name=va", "Name=other\nName=va"),
        with_("MACAddress=02:00:00:00:00:01\nMACAddress="),
        with_("MACAddress=02:00:00:00:00:01\nMACAddress=none"),
        with_("MACAddress=none", "Peer"),
        with_("X-Mine=1") + "[X-Other]\nAnything=goes\n",
        with_("Description=\\\\"),
    ],
)
def test_spellings_of_the_plain_one(text: str) -> None:
    assert read(text) == read(PLAIN)


@pytest.mark.parametrize(
    ("text", "mtu"), [("1500", 1500), ("1500B", 1500), ("2K", 2048), ("63 K", 64512), ("0009000", 9000)]
)
def test_sizes(text: str, mtu: int) -> None:
    assert read(with_(f"MTUBytes={text}")).mtu == mtu


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("02:0:0:0:aB:1", "02:0:0:0:aB:1"),
        ("02-00-00-00-ab-01", "02:00:00:00:ab:01"),
        ("0200.00.ab01", "02:00:00:00:ab:01"),
    ],
)
def test_spellings_of_a_mac_address(text: str, address: str) -> None:
    assert read(with_(f"MACAddress={text}", "Peer")).far_end().address == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "va.netdev: NetDev.Kind: missing"),
        (PLAIN.replace("Kind=veth", ""), "va.netdev: NetDev.Kind: missing"),
        (PLAIN.replace("veth", "bridge"), "va.netdev:3: NetDev.Kind: vethd cannot make kind 'bridge'"),
        (PLAIN.replace("Name=va", ""), "va.netdev: NetDev.Name: missing"),
        (PLAIN.replace("Name=va", "Name=va\nName="), "va.netdev:3: NetDev.Name: '' is not a valid device name"),
        (PLAIN.replace("Name=vb", ""), "va.netdev: Peer.Name: missing"),
        (PLAIN.replace("vb", "va"), "va.netdev:6: Peer.Name: va is already the name of the other end"),
        (with_("MTU=1500"), "va.netdev:2: NetDev.MTU: unknown key"),
        (with_("MtuBytes=1500"), "va.netdev:2: NetDev.MtuBytes: unknown key (did you mean MTUBytes?)"),
        (with_("name=va"), "va.netdev:2: NetDev.name: unknown key (did you mean Name?)"),
        (with_("MTUBytes=9000", "Peer"), "va.netdev:6: Peer.MTUBytes: unknown key"),
        (PLAIN + "[Match]\nHost=a\n", "va.netdev:7: Match: unknown section"),
        (PLAIN + "[Peer\n", "va.netdev:7: '[Peer': a section header must end with ]"),
        ("Name=va\n" + PLAIN, "va.netdev:1: 'Name=va' comes before the first section"),
        (with_("up"), "va.netdev:2: NetDev: 'up' is not KEY=VALUE"),
        (with_("=va"), "va.netdev:2: NetDev: '=va' is not KEY=VALUE"),
        (with_("# x \\\nDescription=1\\\n2\nMTUBytes=1.5K"), "va.netdev:5: NetDev.MTUBytes: '1.5K' is not a number of"),
        (with_("MTUBytes=9000\nMTUBytes="), "va.netdev:3: NetDev.MTUBytes: '' is not a number of bytes"),
        (with_("MTUBytes=-1"), "va.netdev:2: NetDev.MTUBytes: '-1' is not a number of bytes"),
        (with_("MTUBytes=64K"), "va.netdev:2: NetDev.MTUBytes: mtu 65536 is outside 68..65521"),
        (with_("MTUBytes=67"), "va.netdev:2: NetDev.MTUBytes: mtu 67 is outside 68..65521"),
        (with_("MTUBytes=" + "9" * 5000), "va.netdev:2: NetDev.MTUBytes: Exceeds the limit"),
        (with_("MACAddress=nothing"), "va.netdev:2: NetDev.MACAddress: 'nothing' is not a MAC address"),
        (
            with_("MACAddress=01:00:00:00:00:01", "Peer"),
            "va.netdev:6: Peer.MACAddress: address 01:00:00:00:00:01 is not",
        ),
        (with_("MACAddress=02:00:00:00:01"), "va.netdev:2: NetDev.MACAddress: address '02:00:00:00:01' is not 6 bytes"),
        (with_("MACAddress=02:00-00:00:00:01"), "va.netdev:2: NetDev.MACAddress: '02:00-00:00:00:01' is not a MAC"),
        (PLAIN.replace("vb", "sixteen-letters-"), "va.netdev:6: Peer.Name: a name has at most 15 bytes"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert str(refused.value).startswith(words)


@pytest.mark.parametrize("name", ["veth%d", "a/b", "a:b", "a b", ".", "..", "all", "default", "123", "zoë", "a\x7f"])
def test_names_that_systemd_does_not_take(name: str) -> None:
    with pytest.raises(ConfigError, match=r"va\.netdev:6: Peer\.Name: .* is not a valid device name"):
        read(PLAIN.replace("vb", name))


WORDS = st.sampled_from(
    ["[", "]", "=", "\\", "#", ";", "\n", "\n", " ", "\r", "X-", "none", "veth", "va", "9", "K", ":"]
)
PARTS = WORDS | st.sampled_from([*KEYS, *KEYS["NetDev"]]) | st.text(max_size=3)
LINES = st.lists(PARTS, max_size=20).map("".join)


@given(st.lists(LINES | st.sampled_from(PLAIN.split("\n")), max_size=12).map("\n".join))
def test_whatever_the_text_it_is_a_pair_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(ConfigError):
        validate_pair(read(text))
