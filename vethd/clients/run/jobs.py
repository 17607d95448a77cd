"""What a child process of the supervisor does for one trapped call: make or delete a pair, or show one as a veth.

Each function returns the call's result, -errno for an error, or None to let the kernel carry the call out as it is.
Each runs with the caller's rights (acting.py), so that the daemon and the kernel judge the caller.
"""

from __future__ import annotations

import _socket
import errno
import json
import posix
import struct

from vethd.clients.door import DownError, ask, quoted, request
from vethd.clients.run import answers, rtnl
from vethd.clients.run.acting import become, enter, netns_of
from vethd.clients.run.caller import Caller
from vethd.clients.run.calls import Socket
from vethd.clients.run.namespaces import named, with_id
from vethd.clients.run.newlink import Request, wants_veth
from vethd.clients.run.rtnl import Message

_CREATED, _DELETED = 201, 204
_SILENT = errno.ETIMEDOUT

Fds = list[int]


def concerns(message: Message) -> bool:
    """Return whether a message may be for vethd. Raises MalformedError."""
    return message.kind == rtnl.RTM_DELLINK or wants_veth(message)


def send(data: bytes, sock: Socket, caller: Caller) -> int | None:
    """Carry out what a caller sends on an rtnetlink socket; sock is a duplicate of that socket."""
    home = netns_of(sock, caller)
    become(caller)
    messages = rtnl.split(data)
    if len(messages) > 1:
        return _send_each(messages, data, sock, caller, home)
    substitute = _substitute(messages[0], caller, home)
    if isinstance(substitute, int):
        return substitute
    if substitute is None:
        return None
    sock.sendto(substitute, (0, 0))
    return len(data)


def _send_each(messages: list[Message], data: bytes, sock: Socket, caller: Caller, home: int) -> int:
    """Send several messages one by one: each keeps its place, and the caller's rights are this process's."""
    for message in messages:
        substitute = _substitute(message, caller, home)
        if isinstance(substitute, int):
            return substitute
        sock.sendto(message.data if substitute is None else substitute, (0, 0))
    return len(data)


def _substitute(message: Message, caller: Caller, home: int) -> bytes | int | None:
    """Return what to send in place of a message; None: itself; -errno: nothing, and the send fails."""
    try:
        if wants_veth(message):
            return _make(Request(message), caller, home)
        if message.kind == rtnl.RTM_DELLINK:
            return _delete(message, home)
    except rtnl.MalformedError:
        return None
    except DownError as error:
        return -(errno.ETIMEDOUT if "no answer" in str(error) else errno.ECONNREFUSED)
    return None


def _make(asked: Request, caller: Caller, home: int) -> bytes | int | None:
    """Make a pair, and have the kernel set what the daemon does not know; all or nothing."""
    message = asked.message
    if not caller.may_administer():
        return _refusal(message, errno.EPERM)
    try:
        body, fds = _body(asked, caller, home)
    except OSError as error:
        return _refusal(message, error.errno or errno.EINVAL)
    if not asked.exclusive and _exists(asked.near.said, fds[0]):
        return None
    reply = ask(request("POST", "/v1/pairs", json.dumps(body)), fds)
    made = json.loads(reply.text)
    if reply.status != _CREATED:
        code = made["errno"] or errno.EINVAL
        return _refusal(message, errno.EINVAL if code == errno.ENODEV else code)  # the master is not there
    far_later = asked.far.later if asked.far is not None else asked.near.later
    places = {posix.fstat(fd).st_ino: fd for fd in fds}
    for later, link in zip((far_later, asked.near.later), made["links"][::-1], strict=True):
        code = _set(link, later, places) if later else 0
        if code:
            ask(request("DELETE", f"/v1/pairs/{quoted(made['id'])}"), [])
            return _refusal(message, code)
    return answers.done(message, made["links"][0]["ifindex"])


def _body(asked: Request, caller: Caller, home: int) -> tuple[dict[str, object], Fds]:
    """Return a pair for the API, and its namespaces, the near end's first. Raises OSError with the kernel's errno."""
    near = home if asked.near.netns is None else named(*asked.near.netns, caller, home)
    if asked.far is not None and asked.far.netns is not None:
        far = named(*asked.far.netns, caller, home)
    elif asked.inherits_netns:
        far = near
    else:
        far = home if asked.behind is None else with_id(asked.behind, home)
    mine: dict[str, object] = {"netns": "fd:0"}
    if asked.near.master:
        mine["master"] = _name(asked.near.master, near)
    return asked.body(mine, {"netns": "fd:1"}), [near, far]


def _name(index: int, netns: int) -> str:
    """Return the name of a link by its index in a namespace. Raises OSError EINVAL."""
    enter(netns)
    try:
        return _socket.if_indextoname(index)
    except OSError:
        raise OSError(errno.EINVAL, "IFLA_MASTER") from None


def _exists(said: dict[str, object], netns: int) -> bool:
    """Return whether the link that a request names is there already."""
    name = said.get("name")
    if not isinstance(name, str) or "%" in name:
        return False
    enter(netns)
    try:
        return bool(_socket.if_nametoindex(name))
    except OSError:
        return False


def _set(link: dict[str, object], attributes: rtnl.Attributes, places: dict[object, int]) -> int:
    """Have the kernel set attributes of an end, and return its errno, 0 for success."""
    index = link["ifindex"]
    assert isinstance(index, int)
    enter(places[link["netns_inode"]])
    payload = rtnl.LINK.pack(0, 0, index, 0, 0) + rtnl.pack(attributes)
    flags = rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK
    with Socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0) as sock:
        sock.send(rtnl.HEAD.pack(rtnl.HEAD.size + len(payload), rtnl.RTM_SETLINK, flags, 1, 0) + payload)
        (code,) = struct.unpack_from("=i", sock.recv(4096), rtnl.HEAD.size)
    return -int(code)


def _delete(message: Message, home: int) -> bytes | int | None:
    """Delete an end and its peer, if the device is vethd's."""
    _, _, index, _, _ = message.link
    attributes = message.attributes
    if any(rtnl.first(attributes, kind) is not None for kind in (rtnl.IFLA_NET_NS_FD, rtnl.IFLA_NET_NS_PID)):
        return None
    enter(home)
    name = rtnl.first(attributes, rtnl.IFLA_IFNAME) or rtnl.first(attributes, rtnl.IFLA_ALT_IFNAME)
    try:
        word = _socket.if_indextoname(index) if index > 0 else rtnl.text(name or b"")
    except OSError:
        return None
    if not word:
        return None
    try:
        reply = ask(request("DELETE", f"/v1/links/{quoted(word)}?netns=fd:0"), [home])
    except DownError:
        return None  # the kernel deletes the device, and vethd the other end when it is back
    return answers.done(message) if reply.status == _DELETED else None


def _refusal(message: Message, code: int) -> bytes | int:
    return answers.refused(message, code) or -code
