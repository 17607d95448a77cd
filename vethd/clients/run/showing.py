"""Child processes' work on what callers read: links and drivers, with vethd's ends shown as veths."""

from __future__ import annotations

import json
import posix
import struct

from vethd.clients.door import quoted, request
from vethd.clients.run import replies, rtnl
from vethd.clients.run.acting import ask_as, netns_of
from vethd.clients.run.answers import Refusal, worded
from vethd.clients.run.caller import Caller
from vethd.clients.run.calls import Socket
from vethd.clients.run.listener import Call
from vethd.clients.run.memory import MSG_DONTWAIT, MSG_TRUNC, delivered, room
from vethd.clients.run.namespaces import UNKNOWN, id_of

_CONTROL_MAX = 4096
_OK = 200
_SOL_NETLINK, _EXT_ACK, _CAP_ACK = 270, 11, 10

# linux/ethtool.h
GDRVINFO, GSTRINGS, GSTATS, GSSET_INFO = 0x3, 0x1B, 0x1D, 0x37
SHOWN = (GDRVINFO, GSTRINGS, GSTATS, GSSET_INFO)
_ETH_SS_STATS = 1
_GSTRING_LEN = 32
_DRVINFO = struct.Struct("=I32s32s32s32s32s12sIIIII")


def receive(call: Call, sock: Socket, caller: Caller, flags: int, *, only_veths: bool) -> int | None:
    """Receive in a caller's place, and show vethd's ends as veths; only_veths: it asked for links of kind veth."""
    peers = _Peers(netns_of(sock, caller), caller)
    if not peers.answered and not only_veths:
        return None
    size = room(call, caller)
    while True:
        try:
            data, control, _, _ = sock.recvmsg(size, _CONTROL_MAX, MSG_DONTWAIT)
        except BlockingIOError:  # another thread was faster
            return None
        try:
            shown = replies.rewritten(data, peers.of, only_veths=only_veths)
        except rtnl.MalformedError:
            shown = data
        if shown or not data:  # an empty one would be the end of the socket
            break
    packed = b"".join(_control(*part) for part in control)
    return delivered(call, caller, shown, packed, peek_length=bool(flags & MSG_TRUNC))


def receive_refusal(call: Call, sock: Socket, caller: Caller, refusal: Refusal) -> int | None:
    """Receive an acknowledgement in a caller's place, and have it say what the request was refused with."""
    try:
        data = sock.recv(room(call, caller), MSG_DONTWAIT)
    except BlockingIOError:
        return None
    extended, capped = (bool(sock.getsockopt(_SOL_NETLINK, option)) for option in (_EXT_ACK, _CAP_ACK))
    said = worded(rtnl.split(data)[0], refusal, extended=extended, capped=capped)
    return delivered(call, caller, said, b"", peek_length=False)


class _Peers:
    """The peers of vethd's ends in one namespace."""

    def __init__(self, home: int, caller: Caller) -> None:
        self._home = home
        self._inode = posix.fstat(home).st_ino
        reply = ask_as(caller, request("GET", "/v1/links"), [])
        self.answered = reply is not None and reply.status == _OK
        links = json.loads(reply.text) if reply is not None and self.answered else []
        self._ours = {link["ifindex"]: link for link in links if link["netns_inode"] == self._inode}
        self._places = {(link["pair"], link["name"], link["netns"]): link["netns_inode"] for link in links}

    def of(self, index: int) -> replies.Peer | None:
        """Return an end's peer; None if the device is not vethd's."""
        link = self._ours.get(index)
        if link is None:
            return None
        inode = self._places.get((link["pair"], link["peer_name"], link["peer_netns"]))
        if inode == self._inode:
            return link["peer_ifindex"], replies.SAME
        return link["peer_ifindex"], id_of(inode, self._home) if inode is not None else UNKNOWN


def _control(level: int, kind: int, data: bytes) -> bytes:
    """Return one part of the ancillary data as the caller's kernel lays it out (struct cmsghdr, 64 bits)."""
    return struct.pack("=QII", 16 + len(data), level, kind) + data + bytes(-len(data) % 8)


def ethtool(call: Call, sock: Socket, caller: Caller) -> int | None:
    """Answer an ethtool request as a veth's driver, if the device is vethd's."""
    name, address = struct.unpack("=16sQ", caller.read(call.args[2], 24))
    (command,) = struct.unpack("=I", caller.read(address, 4))
    home = netns_of(sock, caller)
    reply = ask_as(caller, request("GET", f"/v1/links/{quoted(rtnl.text(name))}?netns=fd:0"), [home])
    if reply is None or reply.status != _OK:
        return None
    link = json.loads(reply.text)
    if command == GDRVINFO:
        caller.write(address, _DRVINFO.pack(command, b"veth", b"1.0", b"", b"", b"", bytes(12), 0, 1, 0, 0, 0))
    elif command == GSSET_INFO:
        _, _, mask = struct.unpack("=IIQ", caller.read(address, 16))
        if not mask & 1 << _ETH_SS_STATS:
            return None
        caller.write(address + 8, struct.pack("=QI", 1 << _ETH_SS_STATS, 1))
    elif command == GSTRINGS:
        _, which = struct.unpack("=II", caller.read(address, 8))
        if which != _ETH_SS_STATS:
            return None
        caller.write(address + 8, struct.pack("=I", 1) + b"peer_ifindex".ljust(_GSTRING_LEN, b"\0"))
    else:
        caller.write(address + 4, struct.pack("=IQ", 1, link["peer_ifindex"]))
    return 0
