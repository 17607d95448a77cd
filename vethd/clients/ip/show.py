"""`ip link show`: which of its lines are about vethd's links, if any; edit.py then writes them."""

from __future__ import annotations

import posix

from vethd.clients.ip.dispatch import Line, abbreviates
from vethd.clients.ip.door import DownError, ask, own_netns, quoted, request

OK = 200
_VALUED = ("to", "scope", "label", "group", "master", "vrf", "type", "dev")


class Asked:
    """What of `link show` matters here: the words without `type veth`, the device, and what kind was asked for."""

    __slots__ = ("dev", "kind", "words")

    def __init__(self, words: list[str]) -> None:
        self.words: list[str] = []
        self.dev = ""
        self.kind = ""
        rest = iter(words)
        for word in rest:
            value = next(rest, None) if word in _VALUED else None
            if word == "type":
                self.kind = value or ""
            elif word == "dev" or value is None:
                self.dev = self.dev if word in ("up", "nomaster") else value or word
            if (word, value) != ("type", "veth"):
                self.words += [word] if value is None else [word, value]


def show(real: str, line: Line, words: list[str]) -> int | None:
    """Show links and give the status; None where none of them is vethd's, and the real ip can say it all."""
    asked = Asked(words)
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
