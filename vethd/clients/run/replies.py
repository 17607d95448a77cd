"""Show vethd's ends as veths: rewrite the kernel's RTM_NEWLINK messages of their TAPs before the caller reads them.

A rewritten message is never longer: it loses the attributes of a TAP, and gains IFLA_LINK and IFLA_LINK_NETNSID.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from vethd.clients.run import rtnl
from vethd.clients.run.rtnl import LINK, Attributes, Message

SAME = -2
Peer = tuple[int, int]
"""The peer's ifindex, and the id of its namespace: SAME as the end's own, -1 unknown."""


def shows_taps(messages: list[Message]) -> bool:
    """Return whether any of the messages tells of a TAP. Raises MalformedError."""
    return any(_is_tap(message) for message in messages)


def rewritten(data: bytes, peer_of: Callable[[int], Peer | None], *, only_veths: bool) -> bytes:
    """Return what was received with vethd's ends as veths; peer_of gives an end's peer by its ifindex.

    only_veths leaves out all other TAPs: the caller asked for links of kind veth. Raises MalformedError.
    """
    kept = []
    for message in rtnl.split(data):
        whole = message.data + bytes(-len(message.data) % 4)
        if not _is_tap(message):
            kept.append(whole)
            continue
        peer = peer_of(message.link[2])
        if peer is not None:
            kept.append(_as_veth(message, peer))
        elif not only_veths:
            kept.append(whole)
    return b"".join(kept)


def filtered_by_kind(message: Message) -> bool:
    """Return whether a message asks for a dump of links of kind veth. Raises MalformedError."""
    asks = message.kind == rtnl.RTM_GETLINK and message.flags & rtnl.NLM_F_DUMP == rtnl.NLM_F_DUMP
    return asks and len(message.payload) >= LINK.size and rtnl.kind_of(message.attributes) == "veth"


def of_taps(message: Message) -> bytes:
    """Return a dump request for kind veth as one for kind tun."""
    attributes: Attributes = []
    for kind, data in message.attributes:
        if kind == rtnl.IFLA_LINKINFO:
            info = [(name, b"tun\0" if name == rtnl.IFLA_INFO_KIND else value) for name, value in rtnl.parse(data)]
            attributes.append((kind, rtnl.pack(info)))
        else:
            attributes.append((kind, data))
    return message.answered(message.kind, message.flags, message.payload[: LINK.size] + rtnl.pack(attributes))


def _is_tap(message: Message) -> bool:
    if message.kind not in (rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK) or len(message.payload) < LINK.size:
        return False
    info = rtnl.first(message.attributes, rtnl.IFLA_LINKINFO)
    parts = rtnl.parse(info) if info is not None else []
    if rtnl.text(rtnl.first(parts, rtnl.IFLA_INFO_KIND) or b"") != "tun":
        return False
    data = rtnl.first(parts, rtnl.IFLA_INFO_DATA)
    return data is not None and (rtnl.first(rtnl.parse(data), rtnl.IFLA_TUN_TYPE) or b"\0")[0] == rtnl.IFF_TAP


def _as_veth(message: Message, peer: Peer) -> bytes:
    index, netnsid = peer
    attributes: Attributes = []
    for kind, data in rtnl.parse(message.payload[LINK.size :], rtnl.RAW):
        if kind & rtnl.TYPE == rtnl.IFLA_LINKINFO:
            # what other parts there are (the master's) stay
            parts = [part for part in rtnl.parse(data, rtnl.RAW) if part[0] & rtnl.TYPE != rtnl.IFLA_INFO_DATA]
            parts = [(name, b"veth\0" if name == rtnl.IFLA_INFO_KIND else value) for name, value in parts]
            attributes.append((kind, rtnl.pack(parts)))
        elif kind not in (rtnl.IFLA_LINK, rtnl.IFLA_LINK_NETNSID):
            attributes.append((kind, data))
    attributes.append((rtnl.IFLA_LINK, struct.pack("=i", index)))
    if netnsid != SAME:
        attributes.append((rtnl.IFLA_LINK_NETNSID, struct.pack("=i", netnsid)))
    return message.answered(message.kind, message.flags, message.payload[: LINK.size] + rtnl.pack(attributes))
