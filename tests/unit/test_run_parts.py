"""vethd-run's parts that need no kernel: the filter, the numbers, messages and their rewriting, the table."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lib.rtnl import ifinfomsg, nest, text
from vethd.clients.run import answers, replies, rtnl
from vethd.clients.run.calls import I386, NUMBERS, TRAPPED, X86_64
from vethd.clients.run.filter import RESERVED, program
from vethd.clients.run.newlink import Request, wants_veth
from vethd.clients.run.numbers import choose
from vethd.clients.run.rtnl import MalformedError
from vethd.clients.run.table import SLOTS, Table

ASK, ALLOW = 0x7FC00000, 0x7FFF0000
LD, JA, JEQ, JGE, RET = 0x20, 0x05, 0x15, 0x35, 0x06
LOW, HIGH = RESERVED[0][0], RESERVED[1][0]
NEW = rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK | rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL


def judged(words: bytes, arch: int, number: int, args: Sequence[int]) -> int:
    """Run a filter as the kernel does; return its verdict."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *args, *(0,) * (6 - len(args)))
    code = list(struct.iter_unpack("=HBBI", words))
    at, accumulator = 0, 0
    while True:
        kind, true, false, value = code[at]
        at += 1
        if kind == LD:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif kind == JA:
            at += value
        elif kind == RET:
            return int(value)
        else:
            at += true if (accumulator == value if kind == JEQ else accumulator >= value) else false


class TestFilter:
    words = program()

    def asks(self, name: str, *args: int, arch: int = X86_64, words: bytes | None = None) -> bool:
        number = NUMBERS[arch][TRAPPED.index(name)]
        verdict = judged(words or self.words, arch, number, args)
        assert verdict in (ASK, ALLOW)
        return verdict == ASK

    @pytest.mark.parametrize("arch", [X86_64, I386])
    def test_sockets_of_rtnetlink_alone(self, arch: int) -> None:
        assert self.asks("socket", 16, 3, 0, arch=arch)
        assert self.asks("socket", 16, 0x80003, 0, arch=arch)
        for family, protocol in ((16, 15), (2, 0), (1, 0), (17, 0)):
            assert not self.asks("socket", family, 3, protocol, arch=arch)

    @pytest.mark.parametrize("arch", [X86_64, I386])
    @pytest.mark.parametrize("name", [name for name in TRAPPED if name not in ("socket", "ioctl", "fcntl")])
    def test_calls_on_reserved_numbers_alone(self, name: str, arch: int) -> None:
        for number in (LOW, LOW + 63, HIGH, HIGH + 63):
            assert self.asks(name, number, arch=arch)
        for number in (0, 1, LOW - 1, LOW + 64, HIGH - 1, HIGH + 64, 1 << 20):
            assert not self.asks(name, number, arch=arch)

    def test_duplicates_by_fcntl_alone(self) -> None:
        assert self.asks("fcntl", LOW, 0)
        assert self.asks("fcntl", LOW, 1030)
        assert not self.asks("fcntl", LOW, 1)
        assert not self.asks("fcntl", 5, 0)

    def test_ethtool_alone(self) -> None:
        assert self.asks("ioctl", 5, 0x8946)
        assert not self.asks("ioctl", LOW, 0x8913)

    def test_sockets_that_the_program_inherits(self) -> None:
        words = program(frozenset({3}))
        assert self.asks("sendmsg", 3, words=words)
        assert not self.asks("sendmsg", 4, words=words)

    def test_socketcall_of_i386(self) -> None:
        for which, asked in ((1, True), (9, True), (11, True), (16, True), (2, False), (17, False)):
            assert (judged(self.words, I386, 102, [which]) == ASK) is asked

    @given(st.integers(0, 0xFFFFFFFF), st.integers(0, 600), st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
    def test_every_call_has_a_verdict(self, arch: int, number: int, args: list[int]) -> None:
        assert judged(self.words, arch, number, args) in (ASK, ALLOW)


class TestNumbers:
    def test_the_lowest_free_one(self) -> None:
        assert choose({0, 1, 2}, 1024) == LOW
        assert choose({0, 1, 2, LOW, LOW + 2}, 1024) == LOW + 1
        assert choose({0, LOW}, 1024, least=LOW + 5) == LOW + 5

    def test_high_ones_for_many_files(self) -> None:
        assert choose(set(range(900)), 1 << 20) == HIGH
        assert choose(set(range(900)), 4096) is None

    def test_none(self) -> None:
        assert choose({0, 1, 2}, 256) is None
        assert choose({*range(LOW, LOW + 64)}, 1024) is None
        assert choose({*range(LOW, LOW + 64)}, 1 << 16) == HIGH


def newlink(*attributes: tuple[int, bytes], flags: int = NEW) -> bytes:
    payload = ifinfomsg() + nest(list(attributes))
    return rtnl.HEAD.pack(rtnl.HEAD.size + len(payload), rtnl.RTM_NEWLINK, flags, 7, 0) + payload


def info(kind: str, data: bytes | None = None) -> tuple[int, bytes]:
    parts = [(rtnl.IFLA_INFO_KIND, text(kind))]
    return rtnl.IFLA_LINKINFO, nest(parts + ([(rtnl.IFLA_INFO_DATA, data)] if data is not None else []))


class TestRequests:
    def test_a_pair(self) -> None:
        peer = ifinfomsg(9) + nest([(rtnl.IFLA_IFNAME, text("vb")), (rtnl.IFLA_MTU, struct.pack("=I", 1400))])
        data = nest([(rtnl.VETH_INFO_PEER, peer)])
        (message,) = rtnl.split(
            newlink((rtnl.IFLA_IFNAME, text("va")), (rtnl.IFLA_TXQLEN, bytes(4)), info("veth", data))
        )
        assert wants_veth(message)
        body = Request(message).body({"netns": "fd:0"}, {"netns": "fd:1"})
        peer_body = {"name": "vb", "mtu": 1400, "netns": "fd:1"}  # an index counts only beside one of the near end
        assert body == {"name": "va", "txqueuelen": 0, "netns": "fd:0", "peer": peer_body}

    def test_a_peer_without_a_description_inherits(self) -> None:
        (message,) = rtnl.split(newlink((rtnl.IFLA_MTU, struct.pack("=I", 1400)), info("veth")))
        assert Request(message).body({}, {}) == {"mtu": 1400, "peer": {"mtu": 1400}}

    def test_others_are_left_alone(self) -> None:
        for data in (newlink(info("bridge")), newlink(info("veth"), flags=rtnl.NLM_F_REQUEST)):
            assert not wants_veth(rtnl.split(data)[0])

    @given(st.binary(max_size=200), st.binary(max_size=60))
    def test_nothing_but_malformed(self, tail: bytes, anything: bytes) -> None:
        """Whatever a program sends, it is understood or left to the kernel."""
        base = newlink(info("veth", nest([(rtnl.VETH_INFO_PEER, anything)])))[16:]
        for payload in (base + tail, ifinfomsg() + tail, tail):
            data = rtnl.HEAD.pack(rtnl.HEAD.size + len(payload), rtnl.RTM_NEWLINK, NEW, 1, 0) + payload
            try:
                for message in rtnl.split(data + anything):
                    replies.filtered_by_kind(message)
                    if wants_veth(message):
                        Request(message).body({}, {})
                    replies.shows_taps([message])
            except MalformedError:
                pass


class TestReplies:
    tun = nest([(rtnl.IFLA_TUN_TYPE, b"\2"), (1, bytes(4)), (2, bytes(4)), (4, b"\1")])

    def shown(self, *, only_veths: bool = False, peer: replies.Peer | None = (4, replies.SAME)) -> bytes:
        data = newlink((rtnl.IFLA_IFNAME, text("va")), info("tun", self.tun)) + newlink((rtnl.IFLA_IFNAME, text("lo")))
        shown = replies.rewritten(data, lambda _: peer, only_veths=only_veths)
        assert len(shown) <= len(data)
        return shown

    def test_a_tap_of_ours(self) -> None:
        first, second = rtnl.split(self.shown())
        assert rtnl.kind_of(first.attributes) == "veth"
        assert rtnl.number(rtnl.first(first.attributes, rtnl.IFLA_LINK) or b"") == 4
        assert rtnl.first(first.attributes, rtnl.IFLA_LINK_NETNSID) is None
        assert rtnl.first(second.attributes, rtnl.IFLA_LINK) is None
        first, _ = rtnl.split(self.shown(peer=(4, 2)))
        assert rtnl.number(rtnl.first(first.attributes, rtnl.IFLA_LINK_NETNSID) or b"") == 2

    def test_a_tap_of_somebody_elses(self) -> None:
        first, _ = rtnl.split(self.shown(peer=None))
        assert rtnl.kind_of(first.attributes) == "tun"
        assert len(rtnl.split(self.shown(peer=None, only_veths=True))) == 1

    def test_a_refusal_in_words(self) -> None:
        asked = newlink(info("veth"))
        (substitute,) = rtnl.split(rtnl.HEAD.pack(36, rtnl.NLMSG_ERROR, 0, 7, 99) + bytes(20))
        refusal = answers.Refusal(95, "no such luck", asked)
        (plain,) = rtnl.split(answers.worded(substitute, refusal, extended=False, capped=False))
        assert (plain.sequence, plain.port, plain.payload) == (7, 99, struct.pack("=i", -95) + asked)
        (capped,) = rtnl.split(answers.worded(substitute, refusal, extended=True, capped=True))
        assert capped.payload[4:20] == asked[:16]
        assert rtnl.parse(capped.payload[20:]) == [(1, b"no such luck\0")]


class TestTable:
    def test_a_call_that_is_made_again_waits_for_the_first_ones_answer(self) -> None:
        table = Table()
        slot = table.begin(1, 42)
        table.take(slot, 100)
        assert table.repeated(2, 42) == (True, None)
        assert table.call(slot) == 2
        table.keep(slot, 36)
        assert table.repeated(3, 42) == (True, 36)
        assert table.repeated(4, 42) == (False, None)

    def test_a_dead_childs_call_goes_on(self) -> None:
        table = Table()
        slot = table.begin(5, 0)
        table.take(slot, 100)
        assert table.bury(99) == 0
        assert table.bury(100) == 5
        assert table.bury(100) == 0

    def test_a_dead_workers_call_goes_on_if_no_child_has_it(self) -> None:
        table = Table()
        assert table.left() == 0
        struct.pack_into("=Q", table.in_hand, 0, 7)
        assert table.left() == 7
        slot = table.begin(7, 0)
        assert table.left() == 7
        table.take(slot, 100)
        assert table.left() == 0
        table.done()
        assert table.left() == 0

    def test_full(self) -> None:
        table = Table()
        assert [table.begin(call + 1, 0) for call in range(SLOTS)] == list(range(SLOTS))
        assert table.begin(SLOTS + 1, 0) == -1
        table.keep(3, 1)
        assert table.begin(SLOTS + 1, 0) == 3, "an answer that nobody asked for again"
