"""The ids by which one network namespace knows others (link_netnsid): asked for, and given where there is none.

The kernel gives a veth's peer an id in the same way when the link is first looked at.
"""

from __future__ import annotations

import posix
import socket
import struct
from typing import Any

from vethd.clients.door import HEALTH, ask
from vethd.clients.ip.netns import enter, open_netns

RTM_NEWNSID, RTM_GETNSID = 88, 90
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NETNSA_NSID, NETNSA_FD = 1, 3
NONE = -1

_HEAD = struct.Struct("=IHHIIB3x")
_ATTR = struct.Struct("=HHi")


def add_nsids(rows: list[dict[str, Any]], links: list[dict[str, Any]], netns: int) -> None:
    """Write link_netnsid into the rows of links whose peers are elsewhere; netns is where the links are."""
    peers = {link["ifindex"]: link["peer_netns"] for link in links if link["netns"] != link["peer_netns"]}
    if not peers:
        return
    enter(netns)  # this process's end is near
    known = {label: _nsid_of(label) for label in set(peers.values())}
    for row in rows:
        if row.get("ifindex") in peers:
            row["link_netnsid"] = known[peers[row["ifindex"]]]


def _nsid_of(label: str) -> int:
    """Return the id of a namespace as the daemon names it; -1, as the kernel has it, where it cannot be found."""
    fd = _open(label)
    if fd < 0:
        return NONE
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
            known = _request(sock, RTM_GETNSID, (NETNSA_FD, fd))
            if known == NONE:
                _request(sock, RTM_NEWNSID, (NETNSA_FD, fd), (NETNSA_NSID, NONE))
                known = _request(sock, RTM_GETNSID, (NETNSA_FD, fd))
            return known
    finally:
        posix.close(fd)


def _open(label: str) -> int:
    """Open the namespace: "" is the daemon's own, "net:[INODE]" one without a name. -1 where nobody is seen in it."""
    try:
        if not label:
            pid = ask(HEALTH, []).text.partition(b'"pid":')[2].partition(b",")[0].decode()
            return posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY)
        if not label.startswith("net:["):
            return open_netns(label)
    except OSError:
        return NONE
    for pid in filter(str.isdigit, posix.listdir("/proc")):
        try:
            if posix.readlink(f"/proc/{pid}/ns/net") == label:
                return posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY)
        except OSError:
            continue
    return NONE


def _request(sock: socket.socket, kind: int, *attrs: tuple[int, int]) -> int:
    """Make one request and return the id in its answer, -1 where there is none."""
    flags = NLM_F_REQUEST | (NLM_F_ACK if kind == RTM_NEWNSID else 0)
    body = b"".join(_ATTR.pack(_ATTR.size, name, value) for name, value in attrs)
    sock.send(_HEAD.pack(_HEAD.size + len(body), kind, flags, 1, 0, 0) + body)
    reply = sock.recv(4096)
    at = _HEAD.size
    while len(reply) >= at + _ATTR.size and struct.unpack_from("=4xH", reply)[0] == RTM_NEWNSID:
        size, name, value = _ATTR.unpack_from(reply, at)
        if name == NETNSA_NSID:
            return int(value)
        at += max(size + 3 & ~3, 4)
    return NONE
