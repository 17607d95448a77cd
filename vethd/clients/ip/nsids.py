"""Look up the ids that a network namespace has for other namespaces (link_netnsid), and assign missing ones.

In the same way the kernel assigns an id to the namespace of a veth's peer when the link is first shown.
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
    """Add link_netnsid to the rows of links whose peers are in other namespaces; netns is the links' namespace."""
    peers = {link["ifindex"]: link["peer_netns"] for link in links if link["netns"] != link["peer_netns"]}
    if not peers:
        return
    enter(netns)  # for the rest of this process, which is about to end
    known = {label: _nsid_of(label) for label in set(peers.values())}
    for row in rows:
        if row.get("ifindex") in peers:
            row["link_netnsid"] = known[peers[row["ifindex"]]]


def _nsid_of(label: str) -> int:
    """Return the id of a namespace by the daemon's name for it; -1, the kernel's value, if it cannot be found."""
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
    """Open a namespace: "" is the daemon's own, "net:[INODE]" one without a name. -1 if no visible process is in it."""
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
    """Make one request and return the id in its reply, -1 if there is none."""
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
