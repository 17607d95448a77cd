"""Carry out one command line that may be for vethd: make a pair, delete an end, show links."""

from __future__ import annotations

import posix
import sys

from vethd.clients.door import DownError, ask, quoted, request
from vethd.clients.ip import real as real_ip
from vethd.clients.ip.grammar import End, NotOursError, UnsupportedError, read_add, read_delete
from vethd.clients.ip.line import Line, verb
from vethd.clients.ip.netns import own_netns
from vethd.clients.ip.show import show
from vethd.clients.ip.values import UsageError
from vethd.clients.paths import socket_path
from vethd.clients.process import become, say

REFUSED = 2
CREATED = 201
DELETED = 204
ABSENT = 404


class ElsewhereError(Exception):
    """The line is for the real ip."""


class MistakeError(Exception):
    """The real ip rejects this line, and prints the reason."""


def run(real: str, line: Line) -> int:
    """Carry out this process's command line and return its status; may exec the real ip instead."""
    try:
        return carry_out(real, line, line.words)
    except ElsewhereError:
        return become(real, sys.argv[1:])
    except MistakeError:
        return real_ip.complain(real, sys.argv[1:])


def carry_out(real: str, line: Line, words: list[str]) -> int:
    """Carry out the command in words with line's options; return the status. Raises ElsewhereError, MistakeError."""
    what = verb(words)
    if what in ("add", "replace"):
        return _add(real, line, words, replace=what == "replace")
    if what == "delete":
        return _delete(line, words)
    shown = show(real, line, words[2:]) if what == "show" else None
    if shown is None:
        raise ElsewhereError
    return shown


def _add(real: str, line: Line, words: list[str], *, replace: bool) -> int:
    """Make a pair, all or nothing."""
    refused, doubtful = "", True
    try:
        near, peer = read_add(words[2:])
        doubtful = near.doubtful or (peer is not None and peer.doubtful)
    except NotOursError:
        raise ElsewhereError from None
    except UsageError:
        raise MistakeError from None
    except UnsupportedError as error:
        refused = str(error)
    if doubtful and (objection := real_ip.objection(real, line.again(*words))):
        return real_ip.replay(objection)
    if refused:
        say(refused)
        return REFUSED
    return _made(real, line, near, peer, replace=replace)


def _made(real: str, line: Line, near: End, peer: End | None, *, replace: bool) -> int:
    from vethd.clients.ip.add import Namespaces, RefusedError, finish, pair_of, refusal  # noqa: PLC0415 - needs json

    with Namespaces(line) as netnses:
        try:
            body = pair_of(near, peer, netnses, real)
        except UsageError:
            raise MistakeError from None
        except RefusedError as error:
            say(str(error))
            return REFUSED
        try:
            reply = ask(request("POST", "/v1/pairs", body), netnses.fds)
            if reply.status == CREATED:
                return real_ip.replay(finish(real, reply, near, peer, netnses))
        except DownError as error:
            say(_down(real, error))
            return REFUSED
    say(refusal(reply, near, peer, replace=replace))
    return REFUSED


def _delete(line: Line, words: list[str]) -> int:
    """Delete an end and its peer, if the device is vethd's."""
    try:
        name = read_delete(words[2:])
        netns = own_netns(line.netns)
    except (UsageError, OSError):
        raise ElsewhereError from None
    try:
        reply = ask(request("DELETE", f"/v1/links/{quoted(name)}?netns=fd:0"), [netns])
    except DownError:
        raise ElsewhereError from None
    finally:
        posix.close(netns)
    if reply.status == DELETED:
        return 0
    if reply.status == ABSENT:
        raise ElsewhereError
    from vethd.clients.ip.add import refusal  # noqa: PLC0415 - needs json

    say(refusal(reply, None, None, replace=False))
    return REFUSED


def _down(real: str, error: DownError) -> str:
    """Return the message that no daemon answers; if the kernel has veth, the message says so."""
    path = socket_path().decode("utf-8", "surrogateescape")
    ran = real_ip.run(real, ["link", "add", "type", "veth", "peer", "mtu", "1"], catch="oe")  # EINVAL; makes no pair
    kernel = f"; this kernel has veth, too: {real} makes its pairs" if b"Invalid argument" in ran.err else ""
    return f"vethd-ip: vethd does not answer at {path}: {error}{kernel}\n"
