"""A new pair as the API wants it: namespaces opened and sent, and a refusal in the words of the kernel's."""

from __future__ import annotations

import errno
import json
import os
import posix

from vethd.clients.ip import real as real_ip
from vethd.clients.ip.dispatch import Line
from vethd.clients.ip.door import Reply, open_netns, own_netns
from vethd.clients.ip.grammar import NAME_MAX, End
from vethd.clients.ip.values import UsageError, integer

_QUEUES = ("numtxqueues", "numrxqueues")
MTU_TAP = 65521
MTU_VETH = 65535
INHERITED = ("mtu", "txqueuelen", "queues", "group", "gso_max_size", "gso_max_segs", "gro_max_size")
"""What the kernel gives to a peer that was not described."""


class Namespaces:
    """The descriptors that go along with a request; a context manager, which closes them."""

    def __init__(self, line: Line) -> None:
        """Speak for the namespace that line is for."""
        self.fds: list[int] = []
        self._line = line

    def __enter__(self) -> Namespaces:  # noqa: PYI034 - typing costs 4 ms
        return self

    def __exit__(self, *_: object) -> None:
        while self.fds:
            posix.close(self.fds.pop())

    def own(self) -> str:
        """Give the API's word for the namespace that the line is for. Raises UsageError where it cannot be entered."""
        try:
            return self._add(own_netns(self._line.netns))
        except OSError:
            raise UsageError("netns") from None

    def named(self, word: str) -> str:
        """Give the API's word for a name, a path or a PID. Raises UsageError (none of these), OSError ESRCH."""
        try:
            return self._add(open_netns(word))
        except OSError:
            pid = integer(word)
        try:
            return self._add(posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC))
        except FileNotFoundError:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None

    def linked(self, word: str, real: str) -> str:
        """Give the API's word for link-netns, a name, or link-netnsid, "id N". Raises UsageError, OSError EINVAL."""
        if word.startswith("id "):
            ran = real_ip.run(real, ["-json", *self._line.again("netns", "list-id")], catch="oe")
            rows = json.loads(ran.out or b"[]")
            names = [row.get("name") for row in rows if row.get("nsid") == int(word[3:])]
            if not names or not names[0]:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            word = names[0]
        try:
            return self._add(open_netns(word))
        except OSError:
            raise UsageError(word) from None

    def _add(self, fd: int) -> str:
        self.fds.append(fd)
        return f"fd:{len(self.fds) - 1}"


def pair_of(near: End, peer: End | None, netnses: Namespaces, real: str) -> str:
    """Give a pair's JSON. Raises UsageError, OSError with the errno that the kernel would answer."""
    own = netnses.own()
    body = _end(near)
    body["netns"] = netnses.named(near.netns) if near.netns is not None else own
    if near.index is not None:
        body["index"] = near.index
    behind = own
    if near.link_netns is not None:
        behind = netnses.linked(near.link_netns, real)
    if peer is not None:
        far = _end(peer)
        far.pop("master", None)
        far["netns"] = netnses.named(peer.netns) if peer.netns is not None else behind
        if peer.index is not None and near.index is not None:
            far["index"] = peer.index
        body["peer"] = far
    elif near.link_netns is not None and near.netns is None:
        body["peer"] = {key: body[key] for key in INHERITED if key in body} | {"netns": behind}
    return json.dumps(body)


def refusal(reply: Reply, near: End | None, peer: End | None, *, replace: bool) -> str:
    """Word a refusal as iproute2 words the kernel's."""
    error = json.loads(reply.text)
    number, message = error["errno"], error["message"]
    if number == errno.ERANGE and any(len(os.fsencode(_name(end))) > NAME_MAX for end in (near, peer)):
        return "Error: Attribute failed policy validation.\n"
    if number == errno.EINVAL and any(MTU_TAP < _mtu(end) <= MTU_VETH for end in (near, peer)):
        return f"Error: vethd: {message}.\n"
    if number == errno.EEXIST and replace:
        number = errno.EOPNOTSUPP
    return f"RTNETLINK answers: {os.strerror(number)}\n" if number else f"Error: vethd: {message}.\n"


def _end(end: End) -> dict[str, object]:
    """Give an end's attributes. Of two numbers of queues a TAP has the larger for both."""
    said = dict(end.said)
    queues = [number for key in _QUEUES if isinstance(number := said.pop(key, None), int)]
    if queues:
        said["queues"] = max(queues) if min(queues) > 0 else 0
    name = end.known_as()
    if name is not None:
        said["name"] = name
    return said


def _name(end: End | None) -> str:
    return (end.known_as() if end is not None else None) or ""


def _mtu(end: End | None) -> int:
    mtu = end.said.get("mtu") if end is not None else None
    return mtu if isinstance(mtu, int) else 0
