"""What `ip link add` says, read without a kernel: abbreviations, any order, numbers, batches' lines."""

from __future__ import annotations

import errno
import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vethd.clients.door import Reply
from vethd.clients.ip.add import refusal
from vethd.clients.ip.batch import continued, split
from vethd.clients.ip.grammar import NotOursError, UnsupportedError, read_add, read_delete
from vethd.clients.ip.line import split as split_args
from vethd.clients.ip.line import verb
from vethd.clients.ip.values import UsageError, integer, leading, lladdr, unsigned

OPTIONS: dict[str, tuple[str, Any]] = {
    "mtu": ("mtu 1400", 1400),
    "txqueuelen": ("qlen 0x10", 16),
    "address": ("address 2:0:0:0:0:1", "02:00:00:00:00:01"),
    "group": ("group 010", 8),
    "up": ("up", True),
    "arp": ("arp off", False),
    "promisc": ("promisc on", True),
    "numtxqueues": ("numtx 2", 2),
    "gso_max_segs": ("gso_max_segs 9", 9),
    "master": ("mast br0", "br0"),
}
subsets = st.lists(st.sampled_from(sorted(OPTIONS)), unique=True)


@given(subsets, subsets, st.data())
def test_any_order(near: list[str], far: list[str], data: st.DataObject) -> None:
    """The same ends come of the options in whatever order they are said."""

    def said(keys: list[str], name: str) -> list[str]:
        parts = data.draw(st.permutations([*(OPTIONS[key][0] for key in keys), name]))
        return shlex.split(" ".join(parts))

    one, two = read_add([*said(near, "name va"), "type", "veth", "peer", *said(far, "dev vb")])
    assert two is not None
    assert (one.known_as(), two.known_as()) == ("va", "vb")
    assert one.said == {key: OPTIONS[key][1] for key in near}
    assert two.said == {key: OPTIONS[key][1] for key in far}


@given(
    st.lists(st.sampled_from([*"amtnl", "type", "veth", "peer", "name", "va", "1", "on", "up", "", "%", "é", "dev"]))
)
def test_never_anything_else(words: list[str]) -> None:
    """Of any words come two ends, or one of three refusals."""
    try:
        near, _ = read_add(words)
    except (UsageError, NotOursError, UnsupportedError):
        return
    assert near.kind == "veth"


@pytest.mark.parametrize(
    ("words", "later"),
    [
        ("broad 1:2 dy on trailers off", ["broadcast", "1:2", "dynamic", "on", "trailers", "off"]),
        ("mode dormant state up", ["mode", "dormant", "state", "up"]),
        ("gso_ipv4_max_size 9 gro_ipv4_max_size 8", ["gso_ipv4_max_size", "9", "gro_ipv4_max_size", "8"]),
        ("vf 0 mac 1:2 vl 3 q 4 pr 802.1q st auto", []),
        ("protodown_reason 1 on", []),
        ("xdp off", []),
        ("xdp object mtu sec program program up v", []),
        ("xdpdrv pinned mtu", []),
    ],
)
@pytest.mark.parametrize("last", ["brd 3:4", "up", "index 7"])
def test_what_the_daemon_does_not_know(words: str, later: list[str], last: str) -> None:
    """It is kept for the real ip or left out, word by word as iproute2 counts them; the real ip is asked about it."""
    _, end = read_add(["va", "type", "veth", "peer", *last.split(), "vb", *words.split()])
    assert end is not None
    assert end.later == (["broadcast", "3:4"] if last == "brd 3:4" else []) + later
    assert (end.known_as(), end.said, end.doubtful) == ("vb", {"up": True} if last == "up" else {}, True)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("va", "va"),
        ("dev va", "va"),
        ("name va", "va"),
        ("va type veth", "va"),
        ("dev va ty dummy", "va"),
        ("dev dev", "dev"),
    ],
)
def test_delete(words: str, name: str) -> None:
    assert read_delete(words.split()) == name


@pytest.mark.parametrize("words", ["", "dev", "va vb", "va type", "va t dummy", "va type veth peer", "dev va mtu 1"])
def test_delete_of_more_is_not_ours(words: str) -> None:
    with pytest.raises(UsageError):
        read_delete(words.split())


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("link add va type veth", "add"),
        ("l a va type veth", "add"),
        ("li r va type veth", "replace"),
        ("link add va type dummy", ""),
        ("l", "show"),
        ("link sh", "show"),
        ("link s va", ""),
        ("link ls", "show"),
        ("l l", "show"),
        ("l d va", "delete"),
        ("link set va up", ""),
        ("link change va type veth", ""),
        ("address show", ""),
        ("a", ""),
        ("netns exec x ip link add va type veth", ""),
        ("l2tp add", ""),
        ("", ""),
    ],
)
def test_verb(line: str, what: str) -> None:
    assert verb(line.split()) == what


@pytest.mark.parametrize(
    ("line", "netns", "options", "words"),
    [
        ("-n red link", "red", [], ["link"]),
        ("-j -netns red -d l", "red", ["-j", "-d"], ["l"]),
        ("--netns red -- link", "red", [], ["link"]),
        ("-n red -n blue link", "blue", [], ["link"]),
        ("-f inet -rc 9 -l 3 link", None, ["-f", "inet", "-rc", "9", "-l", "3"], ["link"]),
        ("-br -c=auto -4 link", None, ["-br", "-c=auto", "-4"], ["link"]),
    ],
)
def test_options(line: str, netns: str | None, options: list[str], words: list[str]) -> None:
    read = split_args(line.split())
    assert read is not None
    assert (read.netns, read.options, read.words) == (netns, options, words)


@pytest.mark.parametrize(
    "line", ["-V", "-h -V", "-help", "-n", "-b", "-x link", "-f none link", "-rc x link", "-44 link"]
)
def test_options_that_the_real_ip_answers(line: str) -> None:
    assert split_args(line.split()) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"link add va\n", ["link", "add", "va"]),
        (b"  link\tadd  # va\n", ["link", "add"]),
        (b"link 'two words' \"a'b\"\n", ["link", "two words", "a'b"]),
        (b"link \\\nadd\n", ["link", "add"]),
        (b"lin\\\nk\n", ["link"]),
        (b"a'b'\n", ["a'b'"]),
        (b"# nothing\n", []),
        (b"'open\n", None),
    ],
)
def test_batch_line(text: bytes, words: list[str] | None) -> None:
    assert split(text) == words


def test_continuation() -> None:
    assert continued(b"link \\")
    assert not continued(b"link # \\")


@pytest.mark.parametrize(("text", "value"), [("10", 10), (" -0x10", -16), ("010", 8), ("+7", 7), ("0", 0)])
def test_integer(text: str, value: int) -> None:
    assert integer(text) == value


@pytest.mark.parametrize("text", ["", "-", "0x", "08", "1 ", "1x", "4294967296", "-2147483649", "1_0", "\u0661"])
def test_no_integer(text: str) -> None:
    with pytest.raises(UsageError):
        integer(text)
    with pytest.raises(UsageError):
        unsigned(text)


def test_leading() -> None:
    assert [leading(text) for text in ("12x", "x", "-3", " 4", "", "-")] == [12, 0, -3, 4, 0, 0]


@pytest.mark.parametrize(
    ("text", "address"),
    [("2:0:0:0:0:1", "02:00:00:00:00:01"), ("0xa:Bg", "0a:0b"), ("10.1", "0a:01:00:00"), ("100000001", "01")],
)
def test_lladdr(text: str, address: str) -> None:
    assert lladdr(text) == address


@pytest.mark.parametrize("text", ["", "g", "100", "1:", "1.2.3.4.5", "1.256.1.1", "-1"])
def test_no_lladdr(text: str) -> None:
    with pytest.raises(UsageError):
        lladdr(text)


@pytest.mark.parametrize(
    ("number", "message", "said"),
    [
        (errno.EEXIST, "newlink va: File exists", "RTNETLINK answers: File exists\n"),
        (errno.ENODEV, "newlink va: no master", "RTNETLINK answers: Invalid argument\n"),
        (errno.EDQUOT, "newlink va: uid 7 may have 16 pairs", "Error: vethd: newlink va: uid 7 may have 16 pairs.\n"),
        (0, "internal error in vethd; see its log", "Error: vethd: internal error in vethd; see its log.\n"),
    ],
)
def test_refusal(number: int, message: str, said: str) -> None:
    near, peer = read_add(["va", "type", "veth", "peer", "name", "vb"])
    body = json.dumps({"code": "E", "errno": number, "message": message}, separators=(",", ":"))
    reply = Reply(b'{"status":400,"body":' + body.encode() + b"}")
    assert reply.status == 400
    assert refusal(reply, near, peer, replace=False) == said
