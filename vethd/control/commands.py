"""vethctl add, del, set, save and reload: the commands that change something."""

from __future__ import annotations

import errno
from typing import Literal

import click

from vethd.control.cli import FIND_NETNS, JSON, client_of, complete_link, echo_json
from vethd.control.options import NEAR, PEER, gro_option, link_options, rx_checksum_option, said
from vethd.control.table import Table
from vethd.control.table import show as show_table
from vethd.model.api import SPIN_US_MAX, EngineChange, EngineInfo, PairChange, PairInfo
from vethd.model.errors import VethError
from vethd.model.spec import CREATE_ONLY, LinkSpec, PairSpec, RxChecksum


@click.command(
    params=[
        click.Argument(["name"], required=False),
        *link_options(NEAR, without=("name",)),
        *link_options(PEER),
        rx_checksum_option(),
        gro_option("; unsaid, as the daemon has it for all pairs"),
    ]
)
@JSON
@click.pass_context
def add(
    ctx: click.Context, name: str | None, *, rx_checksum: RxChecksum | None, gro: bool | None, as_json: bool
) -> None:
    """Make a pair: NAME and its peer.

    Without NAME the kernel's veth%d names it. A peer of which nothing is said inherits namespace, MTU and
    lengths of queues, as veth's does; one of which anything is said has just that. A namespace that is not
    said is the caller's own. Either both ends are made as asked, or nothing is.
    """
    far = said(ctx, PEER)
    peer = LinkSpec(**far) if far else None
    spec = PairSpec(**said(ctx, NEAR), name=name, peer=peer, rx_checksum=rx_checksum, gro=gro)
    info = client_of(ctx).create(spec)
    if as_json:
        echo_json(info)


@click.command("del")
@click.argument("name", shell_complete=complete_link)
@FIND_NETNS
@click.pass_context
def delete(ctx: click.Context, name: str, netns: str | None) -> None:
    """Delete a pair by the NAME of either end.

    A pair that waits for its namespace has no links yet: it goes by the name that was asked for.
    """
    client = client_of(ctx)
    try:
        client.delete_link(name, netns)
    except VethError as error:
        if error.errno != errno.ENODEV or netns is not None:
            raise
        waiting = [info for info in client.pairs() if not info.links and name in asked_names(info)]
        if len(waiting) != 1:
            raise
        client.delete(waiting[0].id)


@click.command(
    "set",
    params=[
        click.Argument(["ifname"], metavar="NAME", shell_complete=complete_link),
        *link_options(NEAR, without=CREATE_ONLY),
        *link_options(PEER, without=CREATE_ONLY),
        rx_checksum_option(),
        gro_option("; default: as the daemon has it for all pairs", "default"),
        click.Option(["--in", "find_in"], metavar="NETNS", help="Namespace in which NAME is; unsaid, all."),
    ],
)
@click.pass_context
def set_(
    ctx: click.Context,
    ifname: str,
    *,
    rx_checksum: RxChecksum | None,
    gro: bool | Literal["default"] | None,
    find_in: str | None,
) -> None:
    """Change the link NAME, and its peer.

    All of it is done, or nothing. --peer-... means the other end, whichever of the two NAME is. --name renames,
    --netns moves (to the caller's own namespace: --netns $$), and a link that moves goes down, as the kernel
    has it.
    """
    client = client_of(ctx)
    near, far = said(ctx, NEAR), said(ctx, PEER)
    of_the_pair = rx_checksum is not None or gro is not None
    if not near and not far and not of_the_pair:
        raise click.UsageError("nothing to set", ctx)
    if not far and not of_the_pair:
        client.set_link(ifname, LinkSpec(**near), find_in)
        return
    link = client.link(ifname, find_in)
    first = next(iter(client.pair(link.pair).links), link)
    if (first.netns_inode, first.ifindex) != (link.netns_inode, link.ifindex):
        near, far = far, near
    peer = LinkSpec(**far) if far else None
    client.change(link.pair, PairChange(**near, peer=peer, rx_checksum=rx_checksum, gro=gro))


@click.command(
    params=[
        click.Option(
            ["--spin-us"],
            type=click.IntRange(0, SPIN_US_MAX),
            metavar="N",
            help="How long a worker looks on for the next frame before it sleeps, in microseconds (uring).",
        ),
        gro_option(", for pairs that do not say"),
    ]
)
@JSON
@click.pass_context
def engine(ctx: click.Context, *, spin_us: int | None, gro: bool | None, as_json: bool) -> None:
    """Show what forwards the frames, or change what holds for all pairs.

    A change holds until the daemon reads its configuration again. --gro is for pairs that do not say. WORKERS and
    SPIN-US are empty where the daemon's own loop forwards (asyncio); FALLBACK says why uring does not.
    """
    client, change = client_of(ctx), EngineChange(spin_us=spin_us, gro=gro)
    info = client.engine() if change == EngineChange() else client.set_engine(change)
    if as_json:
        echo_json(info)
    elif change == EngineChange():
        show_table(engine_table(info))


def engine_table(info: EngineInfo) -> Table:
    """Lay the engine out, one row."""
    table = Table(("ENGINE", ">WORKERS", ">SPIN-US", "GRO", "FALLBACK"))
    spin = "" if info.spin_us is None else str(info.spin_us)
    table.add(info.name, str(info.workers or ""), spin, "on" if info.gro else "off", info.fallback)
    return table


@click.command()
@click.pass_context
def save(ctx: click.Context) -> None:
    """Save the run-time pairs, to be made again at boot."""
    saved = client_of(ctx).save()
    click.echo(f"{saved.pairs} pair{'' if saved.pairs == 1 else 's'} in {saved.file}")


@click.command()
@click.pass_context
def reload(ctx: click.Context) -> None:
    """Let the daemon read its configuration again.

    Prints how many pairs were created, changed and deleted for it, and how many wait.
    """
    done = client_of(ctx).reload()
    click.echo(f"{done.created} created, {done.changed} changed, {done.deleted} deleted, {done.waiting} waiting")


def asked_names(info: PairInfo) -> set[str]:
    """Return the names that a pair's ends were asked to have."""
    return {name for name in (info.spec.name, info.spec.far_end().name) if name}
