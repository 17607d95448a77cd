"""What a child process of the supervisor does when a caller asks for a new veth, or for the deletion of a link.

It has the caller's rights (acting.py), so that the daemon and the kernel judge the caller.
"""

from __future__ import annotations

import _socket
import errno
import json
import posix
import struct
from collections.abc import Callable
from typing import Any

from vethd.clients.door import DownError, ask, quoted, request
from vethd.clients.run import answers, rtnl
from vethd.clients.run.acting import become, enter, netns_of
from vethd.clients.run.answers import Refusal
from vethd.clients.run.caller import Caller
from vethd.clients.run.calls import Socket
from vethd.clients.run.namespaces import NamespaceError, named, with_id
from vethd.clients.run.newlink import Request, wants_veth
from vethd.clients.run.rtnl import Message
from vethd.clients.veth import refusal

_CREATED, _DELETED = 201, 204
_AF_SPEC_REFUSED = (6, 4)
_ELSEWHERE = (rtnl.IFLA_NET_NS_FD, rtnl.IFLA_NET_NS_PID, rtnl.IFLA_TARGET_NETNSID)

Fds = list[int]


def concerns(message: Message) -> bool:
    """Return whether a message may be for vethd. Raises MalformedError."""
    return message.kind == rtnl.RTM_DELLINK or wants_veth(message)


Refuse = Callable[[Refusal], None]
"""Has the supervisor word the kernel's answer to a substitute."""


class Sender:
    """Carries out what a caller sends on an rtnetlink socket, in a child process."""

    def __init__(self, sock: Socket, caller: Caller, refuse: Refuse) -> None:
        """Take the caller's rights, for the rest of this process; sock is a duplicate of the caller's socket."""
        self._sock = sock
        self._caller = caller
        self._refuse = refuse
        self._home = netns_of(sock, caller)
        become(caller)

    def send(self, messages: list[Message]) -> bool:
        """Send what stands for the messages; return False if the kernel is to send the caller's only one as it is."""
        substitutes = [self._substitute(message) for message in messages]
        if substitutes == [None]:
            return False
        # several messages keep their order; this process has the caller's rights
        for message, substitute in zip(messages, substitutes, strict=True):
            self._sock.sendto(message.data if substitute is None else substitute, (0, 0))
        return True

    def _substitute(self, message: Message) -> bytes | None:
        """Carry out a message that is for vethd, and return what to send in its place; None: itself."""
        try:
            if wants_veth(message):
                return self._make(Request(message))
            if message.kind == rtnl.RTM_DELLINK:
                return self._delete(message)
        except rtnl.MalformedError:
            return None
        except DownError as error:
            return self._refused(message, errno.EOPNOTSUPP, f"vethd does not answer: {error}")
        return None

    def _make(self, asked: Request) -> bytes | None:
        """Make a pair, and have the kernel set what the daemon does not know; all or nothing."""
        message = asked.message
        if not self._caller.may_administer():
            return self._refused(message, errno.EPERM)
        if asked.sets_af_spec and _release() >= _AF_SPEC_REFUSED:
            return self._refused(message, errno.EAFNOSUPPORT)
        try:
            body, fds = self._body(asked)
        except NamespaceError as error:
            return self._refused(message, error.errno or errno.EINVAL, error.text)
        if not asked.exclusive and _exists(asked.near.said.get("name"), fds[0]):
            return None
        reply = ask(request("POST", "/v1/pairs", json.dumps(body)), fds)
        made = json.loads(reply.text)
        if reply.status != _CREATED:
            replace = bool(message.flags & rtnl.NLM_F_REPLACE)
            said = [end.said for end in asked.ends]
            name = asked.near.said.get("name")
            known = name if isinstance(name, str) else None
            return self._refused(message, *refusal(made["errno"], made["message"], said, known, replace=replace))
        code = _finish(asked, made["links"], fds)
        if code:
            ask(request("DELETE", f"/v1/pairs/{quoted(made['id'])}"), [])
            return self._refused(message, code)
        return answers.done(message, made["links"][0]["ifindex"])

    def _body(self, asked: Request) -> tuple[dict[str, object], Fds]:
        """Return a pair for the API, and its namespaces, the near end's first. Raises NamespaceError."""
        home = self._home
        near = home if asked.near.netns is None else named(*asked.near.netns, self._caller, home)
        if asked.far is not None and asked.far.netns is not None:
            far = named(*asked.far.netns, self._caller, home)
        elif asked.inherits_netns:
            far = near
        else:
            far = home if asked.behind is None else with_id(asked.behind, home)
        mine: dict[str, object] = {"netns": "fd:0"}
        if asked.near.master:
            mine["master"] = _name(asked.near.master, near)
        return asked.body(mine, {"netns": "fd:1"}), [near, far]

    def _delete(self, message: Message) -> bytes | None:
        """Delete an end and its peer, if the device is vethd's."""
        _, _, index, _, _ = message.link
        attributes = message.attributes
        if any(rtnl.first(attributes, kind) is not None for kind in _ELSEWHERE):
            return None
        enter(self._home)
        name = rtnl.first(attributes, rtnl.IFLA_IFNAME) or rtnl.first(attributes, rtnl.IFLA_ALT_IFNAME)
        try:
            word = _socket.if_indextoname(index) if index > 0 else rtnl.text(name or b"")
        except OSError:
            return None
        if not word:
            return None
        try:
            reply = ask(request("DELETE", f"/v1/links/{quoted(word)}?netns=fd:0"), [self._home])
        except DownError:
            return None  # the kernel deletes the device, and vethd the other end when it is back
        return answers.done(message) if reply.status == _DELETED else None

    def _refused(self, message: Message, code: int, text: str = "") -> bytes:
        if answers.needs_words(code, text):
            self._refuse(Refusal(code, text, message.data))
        return answers.refused(message, code)


def _finish(asked: Request, links: list[dict[str, Any]], fds: Fds) -> int:
    """Have the kernel set what the daemon does not know, the peer's first; return its errno, 0 for success."""
    places = {posix.fstat(fd).st_ino: fd for fd in fds}
    near, far = links[0]["ifindex"], links[1]["ifindex"]
    payloads = [
        asked.far.later(far) if asked.far is not None else asked.near.later(far, own=False),
        asked.near.later(near),
    ]
    for payload, link in zip(payloads, links[::-1], strict=True):
        code = _set(payload, places[link["netns_inode"]]) if payload else 0
        if code:
            return code
    return 0


def _set(payload: bytes, netns: int) -> int:
    """Make a RTM_SETLINK request in a namespace, and return the kernel's errno, 0 for success."""
    enter(netns)
    flags = rtnl.NLM_F_REQUEST | rtnl.NLM_F_ACK
    with Socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0) as sock:
        sock.send(rtnl.HEAD.pack(rtnl.HEAD.size + len(payload), rtnl.RTM_SETLINK, flags, 1, 0) + payload)
        (code,) = struct.unpack_from("=i", sock.recv(4096), rtnl.HEAD.size)
    return -int(code)


def _name(index: int, netns: int) -> str:
    """Return the name of a link by its index in a namespace. Raises NamespaceError EINVAL."""
    enter(netns)
    try:
        return _socket.if_indextoname(index)
    except OSError:
        raise NamespaceError(errno.EINVAL) from None


def _exists(name: object, netns: int) -> bool:
    """Return whether the link that a request names is there already."""
    if not isinstance(name, str) or "%" in name:
        return False
    enter(netns)
    try:
        return bool(_socket.if_nametoindex(name))
    except OSError:
        return False


def _release() -> tuple[int, ...]:
    """Return the first two numbers of the kernel's release."""
    return tuple(int(word) for word in posix.uname().release.split("-")[0].split(".")[:2])
