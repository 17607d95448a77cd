"""Make a pair by the API: open and send its namespaces, and word a refusal as the kernel's."""

from __future__ import annotations

import errno
import json
import os
import posix

from vethd.clients.door import Reply, ask, quoted, request
from vethd.clients.ip import real as real_ip
from vethd.clients.ip.grammar import End
from vethd.clients.ip.line import Line
from vethd.clients.ip.netns import enter, open_netns, own_netns
from vethd.clients.ip.values import UsageError, integer
from vethd.clients.veth import INHERITED, UNKNOWN_NSID, queues_of
from vethd.clients.veth import refusal as kernels_refusal

_OWN = ("dynamic", "trailers")
"""Later attributes that it does not inherit: flags."""


class RefusedError(Exception):
    """The kernel would refuse the line; the exception's text is the message to print."""


class Namespaces:
    """The file descriptors to send with a request; a context manager that closes them."""

    def __init__(self, line: Line) -> None:
        """Take the line, which names the namespace that it applies to."""
        self.fds: list[int] = []
        self._line = line

    def fd(self, inode: int) -> int:
        """Return the descriptor of the namespace with that inode, or -1."""
        return next((fd for fd in self.fds if posix.fstat(fd).st_ino == inode), -1)

    def __enter__(self) -> Namespaces:  # noqa: PYI034 - importing typing takes 4 ms
        return self

    def __exit__(self, *_: object) -> None:
        while self.fds:
            posix.close(self.fds.pop())

    def own(self) -> str:
        """Return the API's reference for the line's namespace. Raises UsageError if it cannot be opened."""
        try:
            return self._add(own_netns(self._line.netns))
        except OSError:
            raise UsageError("netns") from None

    def named(self, word: str) -> str:
        """Return the API's reference for a name, a path or a PID. Raises UsageError, RefusedError (no such process)."""
        try:
            return self._add(open_netns(word))
        except OSError:
            pid = integer(word)
        try:
            return self._add(posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC))
        except FileNotFoundError:
            raise RefusedError(answer(errno.ESRCH)) from None

    def linked(self, word: str, real: str) -> str:
        """Return the API's reference for a link-netns name or link-netnsid "id N". Raises UsageError, RefusedError."""
        if word.startswith("id "):
            ran = real_ip.run(real, ["-json", *self._line.again("netns", "list-id")], catch="oe")
            rows = json.loads(ran.out or b"[]")
            names = [row.get("name") for row in rows if row.get("nsid") == int(word[3:])]
            if not names or not names[0]:
                raise RefusedError(f"Error: {UNKNOWN_NSID}.\n")
            word = names[0]
        try:
            return self._add(open_netns(word))
        except OSError:
            raise UsageError(word) from None

    def _add(self, fd: int) -> str:
        self.fds.append(fd)
        return f"fd:{len(self.fds) - 1}"


def pair_of(near: End, peer: End | None, netnses: Namespaces, real: str) -> str:
    """Return a pair's JSON. Raises UsageError, RefusedError."""
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


def finish(real: str, made: Reply, near: End, peer: End | None, netnses: Namespaces) -> real_ip.Ran:
    """Have the real ip set the attributes that the daemon does not know, the peer's first; return its result.

    If it fails, the pair is deleted. Raises DownError if the pair cannot be deleted.
    """
    pair = json.loads(made.text)
    far = peer.later if peer is not None else _inherited(near.later)
    for words, link in zip((far, near.later), pair["links"][::-1], strict=True):
        if words:
            ran = _told(real, ["link", "set", "dev", link["name"], *words], netnses.fd(link["netns_inode"]))
            if ran.status:
                ask(request("DELETE", f"/v1/pairs/{quoted(pair['id'])}"), [])
                return ran
    return real_ip.Ran(0, b"", b"")


def answer(number: int) -> str:
    """Word an errno as iproute2 does."""
    return f"RTNETLINK answers: {os.strerror(number)}\n"


def refusal(reply: Reply, near: End | None, peer: End | None, *, replace: bool) -> str:
    """Word a refusal as iproute2 words the kernel's."""
    error = json.loads(reply.text)
    ends = [end for end in (near, peer) if end is not None]
    said = [end.said | {"name": end.known_as() or ""} for end in ends]
    name = near.known_as() if near is not None else None
    number, text = kernels_refusal(error["errno"], error["message"], said, name, replace=replace)
    return f"Error: {text}.\n" if text else answer(number)


def _told(real: str, words: list[str], netns: int) -> real_ip.Ran:
    """Run the real ip in a namespace, and return its result."""
    return real_ip.run(real, words, catch="oe", first=lambda: enter(netns))


def _inherited(later: list[str]) -> list[str]:
    """Return the later attributes that also apply to a peer without a description of its own."""
    pairs = zip(later[::2], later[1::2], strict=True)
    return [word for option, value in pairs if option not in _OWN for word in (option, value)]


def _end(end: End) -> dict[str, object]:
    """Return an end's attributes."""
    said = dict(end.said)
    queues_of(said)
    name = end.known_as()
    if name is not None:
        said["name"] = name
    return said
