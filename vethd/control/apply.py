"""vethctl apply: make the pairs of a file, and change only what differs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import msgspec

from vethd.control.cli import client_of
from vethd.control.client import Client
from vethd.control.netns import inode_of, own_inode
from vethd.model.api import PairChange, PairInfo
from vethd.model.errors import ConfigError
from vethd.model.netdev import read_netdev
from vethd.model.pairfile import read_pairs
from vethd.model.plan import Plan, canonical_netns, plan
from vethd.model.spec import LinkSpec, PairSpec

OWN = "(own)"  # printed for the caller's namespace, which is given as a PID and sent as an fd
DECLARED = ("config",)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--dry-run", is_flag=True, help="Print the changes without making them.")
@click.option(
    "--prune",
    is_flag=True,
    help="Delete the pairs that are not in FILE, except those of the daemon's own configuration and of containers.",
)
@click.pass_context
def apply(ctx: click.Context, file: str, *, dry_run: bool, prune: bool) -> None:
    """Make the pairs of a file, and change only what differs.

    FILE ("-" for stdin) is TOML: [[pair]] tables with the attributes of the near end, and [pair.peer] tables
    with those of the peer. The whole file is checked before any change. An end without a namespace is in the
    caller's own. Each change is printed on a line.

    A FILE named *.netdev is read as a systemd.netdev(5) file with Kind=veth.
    """
    client = client_of(ctx)
    wanted = [read_netdev(*_read(file))] if file.endswith(".netdev") else read_pairs(*_read(file))
    health = client.health()
    home = health.netns_inode
    # never prune other users' pairs, nor those that the CNI plugin made for containers
    current = [info for info in client.pairs() if info.owner == health.owner and info.attachment is None]
    todo = plan(
        current,
        wanted if home == own_inode() else [_in_own_netns(spec) for spec in wanted],
        prune=prune,
        keep=DECLARED,
        canonical=_canonical(current, home),
    )
    for line, act in steps(client, todo, current):
        click.echo(line)
        if not dry_run:
            act()


def steps(client: Client, todo: Plan, current: Sequence[PairInfo]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the plan's steps in order: the line to print, and the function to call."""
    titles = {info.id: title(info) for info in current}
    for id_ in todo.deletes:
        yield f"delete {titles[id_]}", partial(client.delete, id_)
    for id_, change in todo.changes:
        yield f"change {titles[id_]}: {' '.join(_words(change))}", partial(client.change, id_, change)
    for spec in todo.creates:
        yield f"create {_end(spec.near_end())} - {_end(spec.far_end())}", partial(client.create, spec)


def title(info: PairInfo) -> str:
    """Name a pair by its ends: their present names, or the requested ones if the pair waits."""
    if info.links:
        return " - ".join(_title(link.name, link.netns) for link in info.links)
    return f"{_end(info.spec.near_end())} - {_end(info.spec.far_end())}"


def _read(file: str) -> tuple[str, str]:
    name = "stdin" if file == "-" else file
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")), name
    except OSError as error:
        raise ConfigError(name, "", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(name, "", "not UTF-8 text") from error


def _canonical(current: Sequence[PairInfo], home: int) -> Callable[[str | None], str]:
    """Return the function that spells a namespace as the daemon's LinkInfo.netns does, by its inode."""
    known = {link.netns_inode: link.netns for info in current for link in info.links}
    known[home] = ""

    def canonical(netns: str | None) -> str:
        inode = inode_of(netns) if netns else home
        return canonical_netns(netns) if inode is None else known.get(inode, canonical_netns(netns))

    return canonical


def _in_own_netns(spec: PairSpec) -> PairSpec:
    """Fill in this process's namespace where the file has none; given as a PID, it is opened and sent as an fd."""
    own = str(os.getpid())
    peer = spec.peer
    if peer is not None and peer.netns is None:
        peer = msgspec.structs.replace(peer, netns=own)
    return msgspec.structs.replace(spec, netns=own if spec.netns is None else spec.netns, peer=peer)


def _end(link: LinkSpec) -> str:
    return _title(link.name or "veth%d", "" if link.netns == str(os.getpid()) else link.netns or "")


def _title(name: str, netns: str) -> str:
    return f"{name} (netns {netns})" if netns else name


def _words(change: PairChange) -> Iterator[str]:
    for prefix, link in (("", change), ("peer.", change.peer)):
        for name in LinkSpec.__struct_fields__ if link is not None else ():
            value = getattr(link, name)
            if value is not None:
                own = name == "netns" and value == str(os.getpid())
                yield f"{prefix}{name}={OWN if own else msgspec.json.encode(value).decode()}"
    if change.rx_checksum is not None:
        yield f"rx_checksum={change.rx_checksum}"
    if change.gro is not None:
        yield f"gro={change.gro if change.gro == 'default' else 'on' if change.gro else 'off'}"
