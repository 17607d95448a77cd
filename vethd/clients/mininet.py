"""Mininet's links over vethd: `mn --custom FILE --link vethd`, or `Mininet(topo, link=VethdLink)`.

Mininet runs on the system's Python, where vethd may not be installed: this file needs only Mininet and the standard
library. It requests a link on the daemon's fd-passing socket (docs/api.md), with the namespaces of both nodes as fds.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any
from urllib.parse import quote

from mininet.link import Link, TCIntf, TCLink
from mininet.node import Node

_SOCKET = "/run/vethd/vethd.sock"
_REPLY_MAX = 1 << 20
_TIMEOUT_S = 60.0  # the daemon may be busy
_CREATED = 201


class VethdError(Exception):
    """A link could not be made; the exception's text is the reason."""


class VethdLink(Link):  # type: ignore[misc]  # Mininet has no types
    """A link whose two interfaces are a pair of vethd; otherwise the same as Mininet's Link."""

    @classmethod
    def makeIntfPair(  # noqa: N802, PLR0913, PLR0917 - Mininet's own name and parameters
        cls,
        intfname1: str,
        intfname2: str,
        addr1: str | None = None,
        addr2: str | None = None,
        node1: Node | None = None,
        node2: Node | None = None,
        deleteIntfs: bool = True,  # noqa: FBT001, FBT002, N803
    ) -> None:
        """Make the pair in the namespaces of both nodes; None means this process's namespace. Raises VethdError."""
        netnses = [_netns(node) for node in (node1, node2)]
        try:
            if deleteIntfs:
                for number, name in enumerate((intfname1, intfname2)):
                    _ask("DELETE", f"/v1/links/{quote(name, safe='')}?netns=fd:0", None, netnses[number : number + 1])
            peer = {"name": intfname2, "netns": "fd:1", "address": addr2}
            pair = {"name": intfname1, "netns": "fd:0", "address": addr1, "peer": peer}
            status, body = _ask("POST", "/v1/pairs", pair, netnses)
        finally:
            for fd in netnses:
                os.close(fd)
        if status != _CREATED:
            raise VethdError(f"link {intfname1} - {intfname2}: {body['message']}")


class VethdTCIntf(TCIntf):  # type: ignore[misc]
    """An interface that is configured as by Mininet's TCIntf.

    Differs: on a veth noqueue is the default qdisc, on a TAP vethd has set it. So the root qdisc is in use, and
    `tc qdisc add` fails with EEXIST; `tc qdisc replace` does the same and works.
    """

    def tc(self, cmd: str, tc: str = "tc") -> Any:
        """Run one tc command; cmd is a pattern with places for the program and the interface."""
        return super().tc(cmd.replace(" qdisc add ", " qdisc replace ", 1), tc)


class VethdTCLink(VethdLink, TCLink):  # type: ignore[misc]
    """The counterpart of Mininet's TCLink: bandwidth, delay and loss, if the kernel has the queueing disciplines."""

    def __init__(self, *args: Any, **params: Any) -> None:
        """Take the arguments of TCLink."""
        params.setdefault("cls1", VethdTCIntf)
        params.setdefault("cls2", VethdTCIntf)
        super().__init__(*args, **params)


def _netns(node: Node | None) -> int:
    """Open the namespace of a node, or this process's own."""
    return os.open(f"/proc/{node.pid if node else 'self'}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _ask(method: str, path: str, body: object, fds: list[int]) -> tuple[int, dict[str, str]]:
    """Send one request to the daemon; return the reply's status and body. Raises VethdError if no daemon answers."""
    where = f"{os.environ.get('VETHD_SOCKET') or _SOCKET}.fd"
    request = {"method": method, "path": path} | ({} if body is None else {"body": body})
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(_TIMEOUT_S)
            sock.connect(where)
            socket.send_fds(sock, [json.dumps(request).encode()], fds)
            reply = sock.recv(_REPLY_MAX)
    except OSError as error:
        raise VethdError(f"vethd does not answer at {where}: {error.strerror or error}") from error
    if not reply:
        raise VethdError(f"vethd at {where} closed the connection")
    said = json.loads(reply)
    return said["status"], said["body"]


links = {"vethd": VethdLink, "vethdtc": VethdTCLink}
if __name__ == "builtins":  # mn executes a --custom file; mn 2.3 ignores `links`, because its list lacks a comma
    sys.modules["__main__"].LINKS.update(links)
