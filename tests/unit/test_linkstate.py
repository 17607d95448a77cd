"""What is read of a link's message is what pyroute2 reads, which reads all of it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from tests.lib.wait import DEADLINE_S
from vethd.kernel.linkstate import LinkCounters, LinkState, parse_link
from vethd.kernel.message import split
from vethd.kernel.uapi import (
    ADDR_GEN_MODES,
    IFLA_ALT_IFNAME,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_NEW_NETNSID,
    IFLA_PROP_LIST,
    NETLINK_ROUTE,
    NLM_F_REQUEST,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
)

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus" / "rtnetlink"
NLM_F_DUMP = 0x300
NLA_F_NESTED = 0x8000


def messages() -> dict[str, bytes]:
    """Return real messages: those of the corpus, and every link of this namespace."""
    found = {
        f"{file.name}-{n}": message
        for file in CORPUS.glob("link-*")
        for n, (_, message) in enumerate(split(file.read_bytes()))
        if message[16] == socket.AF_UNSPEC
    }
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        sock.settimeout(DEADLINE_S)
        sock.send(struct.pack("=IHHIIBxHiII", 32, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, 0, 0, 0, 0, 0))
        done = False
        while not done:
            for kind, message in split(sock.recv(1 << 17)):
                done = done or kind != RTM_NEWLINK
                if kind == RTM_NEWLINK:
                    found[f"here-{len(found)}"] = message
    return found


def by_codec(data: bytes) -> LinkState:
    """Read a message by pyroute2."""
    message: Any = ifinfmsg(data)
    message.decode()
    props, af_spec, stats = (message.get_attr(f"IFLA_{name}") for name in ("PROP_LIST", "AF_SPEC", "STATS64"))
    inet6 = af_spec.get_attr("AF_INET6") if af_spec is not None else None
    mode = inet6.get_attr("IFLA_INET6_ADDR_GEN_MODE") if inet6 is not None else None
    return LinkState(
        deleted=message["header"]["type"] == RTM_DELLINK,
        ifindex=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        flags=message["flags"],
        mtu=message.get_attr("IFLA_MTU"),
        address=message.get_attr("IFLA_ADDRESS") or "",
        txqueuelen=message.get_attr("IFLA_TXQLEN") or 0,
        group=message.get_attr("IFLA_GROUP") or 0,
        alias=message.get_attr("IFLA_IFALIAS") or "",
        altnames=tuple(props.get_attrs("IFLA_ALT_IFNAME")) if props is not None else (),
        master=message.get_attr("IFLA_MASTER") or 0,
        carrier=bool(message.get_attr("IFLA_CARRIER")),
        carrier_changes=message.get_attr("IFLA_CARRIER_CHANGES") or 0,
        operstate=message.get_attr("IFLA_OPERSTATE") or "UNKNOWN",
        counters=LinkCounters(**{key: stats[key] for key in LinkCounters._fields}) if stats else LinkCounters(),
        gso_max_size=message.get_attr("IFLA_GSO_MAX_SIZE") or 0,
        gso_max_segs=message.get_attr("IFLA_GSO_MAX_SEGS") or 0,
        gro_max_size=message.get_attr("IFLA_GRO_MAX_SIZE") or 0,
        addrgenmode=next((name for name, value in ADDR_GEN_MODES.items() if value == mode), None),
        new_nsid=message.get_attr("IFLA_NEW_NETNSID"),
    )


@pytest.mark.parametrize("data", messages().values(), ids=messages().keys())
def test_real_messages_read_as_pyroute2_does(data: bytes) -> None:
    assert parse_link(data) == by_codec(data)


def attr(kind: int, value: bytes) -> bytes:
    """Return an attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(*attrs: bytes, kind: int = RTM_NEWLINK, family: int = 0) -> bytes:
    """Return a message about link 7."""
    body = struct.pack("=BxHiII", family, 1, 7, 1, 0) + b"".join(attrs)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_names_as_they_come() -> None:
    """A name need be no UTF-8, and there may be many others."""
    others = attr(IFLA_ALT_IFNAME, b"one\0") + attr(IFLA_ALT_IFNAME, b"two\xff\0")
    state = parse_link(
        message(
            attr(IFLA_IFNAME, b"v\xe9\0"),
            attr(IFLA_IFALIAS, "Ünï".encode()),
            attr(IFLA_PROP_LIST | NLA_F_NESTED, others),
        )
    )
    assert state is not None
    assert (state.ifindex, state.name, state.alias, state.altnames) == (7, "v\\xe9", "Ünï", ("one", "two\\xff"))


@pytest.mark.parametrize(("value", "nsid"), [(3, 3), (-1, -1)])
def test_where_it_went(value: int, nsid: int) -> None:
    state = parse_link(message(attr(IFLA_NEW_NETNSID, struct.pack("=i", value)), kind=RTM_DELLINK))
    assert state is not None
    assert (state.deleted, state.new_nsid) == (True, nsid)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        message(kind=RTM_GETLINK),
        message(family=socket.AF_BRIDGE),
        message(b"\3\0\3\0"),
        message(b"\x40\0\3\0"),
        message(attr(4, b"\1\2")),
        message(attr(16, b"\x63")),
    ],
    ids=[
        "nothing",
        "of another kind",
        "bridge port",
        "too short",
        "beyond the end",
        "an MTU of 2 bytes",
        "operstate",
    ],
)
def test_what_is_no_link(data: bytes) -> None:
    assert parse_link(data) is None
