"""`ip link show`: find out whether vethd's links are among those shown; if so, edit.py prints them."""

from __future__ import annotations

import posix

from vethd.clients.door import DownError, ask, quoted, request
from vethd.clients.ip.line import Line, abbreviates
from vethd.clients.ip.netns import own_netns
from vethd.clients.ip.selection import Selection

OK = 200


def show(real: str, line: Line, words: list[str]) -> int | None:
    """Show links and return the status; None if none of them is vethd's, so that the real ip can show all."""
    asked = Selection(words)
    if asked.kind not in ("", "veth") or any(abbreviates(word, "help") for word in asked.words):
        return None
    try:
        netns = own_netns(line.netns)
    except OSError:
        return None
    try:
        path = f"/v1/links/{quoted(asked.dev)}?netns=fd:0" if asked.dev else "/v1/links"
        reply = ask(request("GET", path), [netns])
        inode = posix.fstat(netns).st_ino
        if reply.status != OK or b'"netns_inode":%d,' % inode not in reply.text:
            return None
        from vethd.clients.ip.edit import write_links  # noqa: PLC0415 - needs json and re, 10 ms

        return write_links(real, line, asked, netns, reply.text)
    except DownError:
        return None
    finally:
        posix.close(netns)
