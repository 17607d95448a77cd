"""What may be asked for: the errno of every refusal, the order of faults, and JSON there and back."""

from __future__ import annotations

import errno
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vethd.model.api import PairChange, PairSet
from vethd.model.errors import VethError
from vethd.model.spec import (
    AddrGenMode,
    LinkSpec,
    PairSpec,
    check_name,
    parse_mac,
    validate_link,
    validate_pair,
)

OK = 0
MAC = "02:00:00:00:00:01"
TEXT_FIELDS = ("name", "netns", "address", "alias", "altname", "master")
FLAG_FIELDS = ("up", "arp", "multicast", "allmulticast", "promisc")
NUMBER_FIELDS = (
    "mtu",
    "txqueuelen",
    "ring",
    "queues",
    "index",
    "group",
    "gso_max_size",
    "gso_max_segs",
    "gro_max_size",
)


def refusal(link: LinkSpec) -> VethError | None:
    """Return the refusal, None where there is none."""
    try:
        if isinstance(link, PairSpec):
            validate_pair(link)
        else:
            validate_link(link)
    except VethError as error:
        return error
    return None


def answer(link: LinkSpec) -> int:
    """Return the errno of the refusal, OK where there is none."""
    error = refusal(link)
    if error is None:
        return OK
    assert error.op == "newlink"
    assert error.ifname in {link.name or "", link.master}
    return error.errno


REFUSALS: list[tuple[dict[str, Any], int]] = [
    *(({"name": name}, OK) for name in ("a", "a" * 15, "ü" * 7, "veth%d", "%d", "%dx", "a.b", "...", "-a", "a%dx")),
    *(({"name": name}, errno.ERANGE) for name in ("a" * 16, "ü" * 8, "a" * 14 + "%d", "a/" * 8)),
    *(({"name": name}, errno.EINVAL) for name in ("", ".", "..", "a/b", "a b", "a:0", "a\tb", "a\nb", "a\0b")),
    *(({"name": name}, errno.EINVAL) for name in ("%", "a%", "%s", "%%d", "%d%d", "%d%", "a%i")),
    *(({"address": mac}, OK) for mac in (MAC, "2:0:0:0:0:1", "FE:ff:FF:ff:ff:ff", "00:00:00:00:00:01")),
    *(
        ({"address": mac}, errno.EADDRNOTAVAIL)
        for mac in ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:00:00:00:00")
    ),
    *(({"address": mac}, errno.EADDRNOTAVAIL) for mac in ("03:00:00:00:00:01", "33:33:00:00:00:01", "0:0:0:0:0:0")),
    *(
        ({"address": mac}, errno.EINVAL)
        for mac in ("", "02:00:00:00:00", MAC + ":02", MAC + "\n", " " + MAC, "x" + MAC)
    ),
    *(
        ({"address": mac}, errno.EINVAL)
        for mac in ("020000000001", "02-00-00-00-00-01", "002:0:0:0:0:1", "02::0:0:0:1")
    ),
    *(({"mtu": mtu}, OK) for mtu in (68, 1500, 65521)),
    *(({"mtu": mtu}, errno.EINVAL) for mtu in (-1, 0, 67, 65522, 65535, 65536, 1 << 64)),
    *(({"txqueuelen": number}, OK) for number in (0, 1, 1000, (1 << 31) - 1)),
    *(({"txqueuelen": number}, errno.EINVAL) for number in (-1, 1 << 31)),
    *(({"ring": number}, OK) for number in (0, 64, 1000, 524288)),
    *(({"ring": number}, errno.EINVAL) for number in (-1, 1, 63, 524289, 1 << 40)),
    *(({"queues": number}, OK) for number in (1, 256)),
    *(({"queues": number}, errno.EINVAL) for number in (-1, 0, 257)),
    *(({"index": number}, OK) for number in (1, (1 << 31) - 1)),
    *(({"index": number}, errno.EINVAL) for number in (-1, 0, 1 << 31)),
    *(({key: (1 << 32) - 1}, OK) for key in ("group", "gso_max_size", "gso_max_segs", "gro_max_size")),
    *(({key: 1 << 32}, errno.EINVAL) for key in ("group", "gso_max_size", "gso_max_segs", "gro_max_size")),
    *(({key: -1}, errno.EINVAL) for key in ("group", "gso_max_size", "gso_max_segs", "gro_max_size")),
    *(({"alias": alias}, OK) for alias in ("", "a b/c:d", "a" * 255, "ü" * 127)),
    *(({"alias": alias}, errno.ERANGE) for alias in ("a" * 256, "ü" * 128)),
    *(({"altname": name}, OK) for name in ("", "a", "a" * 127, "a:b")),
    *(({"altname": name}, errno.ERANGE) for name in ("a" * 128, "ü" * 64)),
    *(({"altname": name}, errno.EINVAL) for name in ("a/b", "a b", " ", "/")),
    *(({"master": name}, OK) for name in ("", "br0", "a" * 15)),
    *(({"master": name}, errno.EINVAL) for name in ("a/b", ".", "br%d")),
    ({"master": "a" * 16}, errno.ERANGE),
    *(({key: "a\0b"}, errno.EINVAL) for key in TEXT_FIELDS),
    *(({"netns": netns}, OK) for netns in ("red", "/run/netns/red", "4711", "fd:0", "")),
    ({}, OK),
]


@pytest.mark.parametrize(("said", "expected"), REFUSALS, ids=[f"{said!r:.60}" for said, _ in REFUSALS])
def test_errno_of_every_refusal(said: dict[str, Any], expected: int) -> None:
    assert answer(LinkSpec(**said)) == expected


def test_a_mtu_that_veth_would_take_is_refused_with_the_reason() -> None:
    with pytest.raises(VethError, match=r"68\.\.65521.*the kernel's veth allows 65535, a TAP does not"):
        validate_link(LinkSpec(mtu=65535))
    with pytest.raises(VethError, match=r"mtu 65536 is outside 68\.\.65521$"):
        validate_link(LinkSpec(mtu=65536))


@given(st.binary(min_size=6, max_size=6))
def test_an_address_is_unicast_or_refused(raw: bytes) -> None:
    """is_valid_ether_addr(): neither a group address nor zero."""
    if raw[0] % 2 or raw == bytes(6):
        with pytest.raises(VethError) as refused:
            parse_mac(raw.hex(":"), "changelink", "a")
        assert (refused.value.errno, refused.value.op, refused.value.ifname) == (errno.EADDRNOTAVAIL, "changelink", "a")
    else:
        assert parse_mac(raw.hex(":"), "newlink") == parse_mac(raw.hex(":").upper(), "newlink") == raw


@given(st.binary(max_size=20).filter(lambda raw: len(raw) != 6))
def test_an_address_has_six_bytes(raw: bytes) -> None:
    assert answer(LinkSpec(address=raw.hex(":"))) == errno.EINVAL


def test_a_pattern_only_where_one_is_meant() -> None:
    check_name("veth%d", "newlink")
    with pytest.raises(VethError):
        check_name("veth%d", "changelink", pattern=False)


class TestOrderOfFaults:
    """The near end's before the peer's, as rtnl_newlink() meets them; the peer's `up` is met last."""

    @pytest.mark.parametrize(
        ("near", "peer", "expected"),
        [
            ({"mtu": 5}, {"address": "ff:ff:ff:ff:ff:ff"}, (errno.EINVAL, "va")),
            ({}, {"address": "ff:ff:ff:ff:ff:ff"}, (errno.EADDRNOTAVAIL, "vb")),
            ({"address": "0:0:0:0:0:0"}, {"mtu": 5}, (errno.EADDRNOTAVAIL, "va")),
            ({}, {"mtu": 5, "up": True}, (errno.EINVAL, "vb")),
            ({"mtu": 5}, {"up": True}, (errno.EINVAL, "va")),
            ({}, {"up": True}, (errno.ENOTCONN, "vb")),
            ({"up": True}, {"up": True}, (errno.ENOTCONN, "vb")),
            ({"up": True}, {"up": False}, (OK, "")),
        ],
    )
    def test_pair(self, near: dict[str, Any], peer: dict[str, Any], expected: tuple[int, str]) -> None:
        error = refusal(PairSpec(name="va", peer=LinkSpec(name="vb", **peer), **near))
        assert ((error.errno, error.ifname) if error else (OK, "")) == expected

    def test_an_unnamed_peer_is_not_up(self) -> None:
        validate_pair(PairSpec(name="va", up=True))


@pytest.mark.parametrize(
    ("near", "far", "expected"),
    [(None, None, OK), (1, 1, OK), (1, None, OK), (2, 1, errno.EINVAL), (None, 2, errno.EINVAL), (2, 2, errno.EINVAL)],
)
def test_a_latency_queue_is_the_second_queue(near: int | None, far: int | None, expected: int) -> None:
    spec = PairSpec(queues=near, latency_queue=True, peer=LinkSpec(queues=far))
    error = refusal(spec)
    assert (error.errno if error else OK) == expected
    assert spec.urgent_queues == (1,)
    other = msgspec.structs.replace(spec, latency_queue=False)
    assert (refusal(other), other.urgent_queues) == (None, ())


@pytest.mark.parametrize("key", LinkSpec.__struct_fields__)
def test_what_an_end_never_named_inherits(key: str) -> None:
    """Its namespace, MTU, queue and GSO limits, and its group; never what tells one end from the other."""
    value: Any = MAC if key == "address" else "x" if key in TEXT_FIELDS else 1
    pair = PairSpec(**{key: value})
    inherited = {
        "netns",
        "mtu",
        "txqueuelen",
        "ring",
        "queues",
        "group",
        "gso_max_size",
        "gso_max_segs",
        "gro_max_size",
    }
    assert getattr(pair.far_end(), key) == (value if key in inherited else None)
    assert getattr(pair.near_end(), key) == value
    assert PairSpec(peer=LinkSpec(), **{key: value}).far_end() == LinkSpec()  # named, and nothing said


texts = st.none() | st.text(max_size=300)
numbers = st.none() | st.integers()
link_fields: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(TEXT_FIELDS, texts),
    **dict.fromkeys(NUMBER_FIELDS, numbers),
    **dict.fromkeys(FLAG_FIELDS, st.none() | st.booleans()),
    "addrgenmode": st.none() | st.sampled_from(get_args(AddrGenMode)),
}
links = st.builds(LinkSpec, **link_fields)
pairs = st.builds(
    PairSpec,
    peer=st.none() | links,
    rx_checksum=st.sampled_from([None, "verify", "trust"]),
    latency_queue=st.none() | st.booleans(),
    **link_fields,
)


def test_every_field_is_fuzzed() -> None:
    assert set(link_fields) == set(LinkSpec.__struct_fields__)


@given(pairs)
def test_whatever_is_asked_the_answer_is_yes_or_a_veth_error(pair: PairSpec) -> None:
    error = refusal(pair)
    if error is not None:
        assert error.errno in {errno.EINVAL, errno.ERANGE, errno.EADDRNOTAVAIL, errno.ENOTCONN}
        assert error.reason


@given(st.text(alphabet=st.characters(), max_size=20), st.booleans())
def test_any_name(name: str, pattern: bool) -> None:
    try:
        check_name(name, "newlink", pattern=pattern)
    except VethError as error:
        assert error.errno in {errno.EINVAL, errno.ERANGE}  # noqa: PT017 - or no error
    else:
        assert 1 <= len(name.encode()) <= 15


@pytest.mark.parametrize("key", ["name", "alias", "altname", "master"])
def test_undecodable_bytes_are_a_refusal(key: str) -> None:
    """As os.fsdecode() gives them, so sys.argv too."""
    said: dict[str, Any] = {key: "a\udcffb"}
    assert answer(LinkSpec(**said)) in {errno.EINVAL, errno.ERANGE}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("xà", errno.EINVAL, id="a byte 0xa0, which the kernel's isspace() takes for a space"),
        pytest.param("x\u2003y", OK, id="em space: none of its bytes is a space"),
        pytest.param("x\x85y", OK, id="next line"),
        pytest.param("x\x1cy", OK, id="file separator"),
    ],
)
def test_space_is_the_kernels(name: str, expected: int) -> None:
    assert answer(LinkSpec(name=name)) == expected


@given(pairs)
def test_json_there_and_back(pair: PairSpec) -> None:
    raw = msgspec.json.encode(pair)
    assert msgspec.json.decode(raw, type=PairSpec) == pair
    said = msgspec.json.decode(raw)
    assert None not in said.values()  # not said is not written


@given(st.lists(pairs, max_size=3))
def test_a_set_of_pairs_there_and_back(some: list[PairSpec]) -> None:
    raw = msgspec.json.encode(PairSet(pair=some))
    assert msgspec.json.decode(raw, type=PairSet).pair == some


@given(links, st.none() | links)
def test_a_change_is_spelled_as_a_pair_is(link: LinkSpec, peer: LinkSpec | None) -> None:
    said = {key: getattr(link, key) for key in LinkSpec.__struct_fields__}
    change, pair = PairChange(peer=peer, **said), PairSpec(peer=peer, **said)
    assert msgspec.json.encode(change) == msgspec.json.encode(pair)


@pytest.mark.parametrize("kind", [LinkSpec, PairSpec, PairChange, PairSet])
def test_unknown_fields_are_refused(kind: type[msgspec.Struct]) -> None:
    with pytest.raises(msgspec.ValidationError, match="mtuu"):
        msgspec.json.decode(b'{"mtuu": 1500}', type=kind)


@pytest.mark.parametrize(
    "body", ['{"peer": {"mtuu": 1}}', '{"mtu": "1500"}', '{"up": 1}', '{"addrgenmode": "x"}', "[]"]
)
def test_wrong_types_are_refused(body: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=PairSpec)


def test_a_spec_cannot_be_changed_behind_ones_back() -> None:
    with pytest.raises(AttributeError):
        LinkSpec().name = "x"  # type: ignore[misc]
    assert hash(PairSpec(name="a")) == hash(PairSpec(name="a"))
