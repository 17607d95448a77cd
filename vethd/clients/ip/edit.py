"""Run the real ip's `link show`, and rewrite vethd's links in its output as veths.

In text it changes two places: the name (va@vb, or va@if3 if the peer is in another namespace) and, with -d, the kind.
In JSON it changes link, or link_index and link_netnsid, and with -d the kind. The daemon's reply lists vethd's links.
"""

from __future__ import annotations

import json
import posix
import re
from typing import Any

from vethd.clients.ip.line import Line
from vethd.clients.ip.real import run, write
from vethd.clients.ip.selection import Selection

_COLOR = re.compile(rb"(?:\x1b\[[0-9;]*m)*")
_HEAD = re.compile(rb"(\d+): ")
_TUN = re.compile(rb"(?<=    )tun type tap .*?(?=addrgenmode |$)", re.MULTILINE)

Row = dict[str, Any]


def write_links(real: str, line: Line, asked: Selection, netns: int, told: bytes) -> int:
    """Print the selected links of the namespace netns, and return the status; told is the daemon's reply on links."""
    found = json.loads(told)
    inode = posix.fstat(netns).st_ino
    ours: list[Row] = [link for link in ([found] if asked.dev else found) if link["netns_inode"] == inode]
    veths = _rows(real, line, "link", "show", "type", "veth") if asked.kind else None
    ran = run(real, [*_colours(line), *line.again("link", "show", *asked.words)], catch="o")
    if "json" in line.rows:
        rows = _json(json.loads(ran.out or b"[]"), ours, veths, details="details" in line.rows)
        if "brief" not in line.rows:
            from vethd.clients.ip.nsids import add_nsids  # noqa: PLC0415 - text output does not need it

            add_nsids(rows, ours, netns)
        ran.out = _dumped(rows, pretty="pretty" in line.rows) if ran.out else b""
    elif "brief" in line.rows:
        ran.out = _brief(ran.out, ours, veths)
    else:
        ran.out = _text(ran.out, ours, veths)
    write(1, ran.out)
    return ran.status


def _rows(real: str, line: Line, *words: str) -> list[Row]:
    netns = ["-netns", line.netns] if line.netns is not None else []
    return [row for row in json.loads(run(real, ["-json", *netns, *words], catch="oe").out or b"[]") if row]


def _colours(line: Line) -> list[str]:
    """Return the option that forces colours if -color=auto is given and stdout is a terminal."""
    auto = any(option.endswith("=auto") for option in line.options)
    return ["-color=always"] if auto and posix.isatty(1) else []


def _json(rows: list[Row], ours: list[Row], veths: list[Row] | None, *, details: bool) -> list[Row]:
    links = {link["name"]: link for link in ours}  # -brief shows no ifindex
    kept = None if veths is None else links.keys() | {row["ifname"] for row in veths}
    return [_as_veth(row, links, details=details) for row in rows if kept is None or row.get("ifname") in kept]


def _as_veth(row: Row, links: dict[str, Row], *, details: bool) -> Row:
    """Return a row as for a veth, with the peer's keys where iproute2 has them: after the ifindex."""
    link = links.get(row.get("ifname", ""))
    if link is None:
        return row
    here = link["netns"] == link["peer_netns"]
    whose: Row = {"link": link["peer_name"]} if here else {"link_index": link["peer_ifindex"]}
    shown: Row = {key: row[key] for key in ("ifindex",) if key in row} | whose | row
    if details and "linkinfo" in row:
        info = {key: value for key, value in row["linkinfo"].items() if key != "info_data"}
        shown["linkinfo"] = info | {"info_kind": "veth"}
    return shown


def _dumped(rows: list[Row], *, pretty: bool) -> bytes:
    text = json.dumps(rows, indent=4) if pretty else json.dumps(rows, separators=(",", ":"))
    return text.encode() + b"\n"


def _text(out: bytes, ours: list[Row], veths: list[Row] | None) -> bytes:
    """Edit the blocks of vethd's links, which begin with the ifindex, and drop the links that were not selected."""
    links = {link["ifindex"]: link for link in ours}
    kept = None if veths is None else links.keys() | {row["ifindex"] for row in veths}
    lines: list[bytes] = []
    link, keep = None, True
    for line in out.splitlines(keepends=True):
        head = _HEAD.match(line)
        if head:
            index = int(head[1])
            link, keep = links.get(index), kept is None or index in kept
        if keep and link is not None:
            shown = _renamed(line, head.end(), link, b"%s: ") if head else line
            lines.append(_TUN.sub(b"veth ", shown))
        elif keep:
            lines.append(line)
    return b"".join(lines)


def _brief(out: bytes, ours: list[Row], veths: list[Row] | None) -> bytes:
    names = None if veths is None else {row["ifname"] for row in veths}
    lines: list[bytes] = []
    for line in out.splitlines(keepends=True):
        start = _matched(line, 0)
        name = line[start:].split(b" ")[0].split(b"@")[0].decode("utf-8", "surrogateescape")
        link = next((link for link in ours if link["name"] == name), None)
        if link is not None:
            lines.append(_renamed(line, 0, link, b"%-16s "))
        elif names is None or name in names:
            lines.append(line)
    return b"".join(lines)


def _renamed(line: bytes, start: int, link: Row, form: bytes) -> bytes:
    """Replace the name at start (after a colour's escape, if any) by name@peer, in iproute2's form."""
    start = _matched(line, start)
    peer = link["peer_name"] if link["netns"] == link["peer_netns"] else f"if{link['peer_ifindex']}"
    old, new = (form % name.encode("utf-8", "surrogateescape") for name in (link["name"], f"{link['name']}@{peer}"))
    return line[:start] + new + line[start + len(old) :] if line.startswith(old, start) else line


def _matched(line: bytes, start: int) -> int:
    """Return the position after a colour's escape at start, or start if there is none."""
    colour = _COLOR.match(line, start)
    return colour.end() if colour else start
