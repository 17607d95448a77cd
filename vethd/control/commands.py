"""vethctl add, del, set, engine, save and reload: the commands that make changes."""

from __future__ import annotations

import errno
from typing import Literal

import click

from vethd.control.cli import FIND_NETNS, JSON, client_of, complete_link, echo_json
from vethd.control.options import NEAR, PEER, gro_option, latency_queue_option, link_options, rx_checksum_option, said
from vethd.control.table import Table
from vethd.control.table import show as show_table
from vethd.model.api import MODERATION_US_MAX, SPIN_US_MAX, EngineChange, EngineInfo, PairChange, PairInfo
from vethd.model.errors import VethError
from vethd.model.spec import CREATE_ONLY, RING_MAX, RING_MIN, LinkSpec, PairSpec, RxChecksum


@click.command(
    params=[
        click.Argument(["name"], required=False),
        *link_options(NEAR, without=("name",)),
        *link_options(PEER),
        rx_checksum_option(),
        gro_option(" (default: the daemon's setting for all pairs)"),
        latency_queue_option(),
    ]
)
@JSON
@click.pass_context
def add(  # noqa: PLR0913 - one argument an option
    ctx: click.Context,
    name: str | None,
    *,
    rx_checksum: RxChecksum | None,
    gro: bool | None,
    latency_queue: bool | None,
    as_json: bool,
) -> None:
    """Make a pair: NAME and its peer.

    Without NAME the kernel picks a name of the form veth%d. If no --peer option is given, the peer inherits
    netns, mtu, txqueuelen, ring, queues, group and the GSO and GRO limits; otherwise it has only the given
    attributes. An end without a namespace is in the caller's own. Either both ends are made as requested, or none.
    """
    far = said(ctx, PEER)
    peer = LinkSpec(**far) if far else None
    near = said(ctx, NEAR)
    spec = PairSpec(**near, name=name, peer=peer, rx_checksum=rx_checksum, gro=gro, latency_queue=latency_queue)
    info = client_of(ctx).create(spec)
    if as_json:
        echo_json(info)


@click.command("del")
@click.argument("name", shell_complete=complete_link)
@FIND_NETNS
@click.pass_context
def delete(ctx: click.Context, name: str, netns: str | None) -> None:
    """Delete a pair by the NAME of either end.

    A pair that waits for its namespace has no links yet; it is found by its requested names.
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
        gro_option("; default: the daemon's setting for all pairs", "default"),
        click.Option(["--in", "find_in"], metavar="NETNS", help="Namespace of NAME; by default all are searched."),
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

    Either all changes are made, or none. The --peer options change the other end, whichever end NAME is. --name
    renames the link. --netns moves it (--netns $$ to the caller's own namespace); a link that moves goes down,
    as in the kernel.
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
            help="Microseconds that a worker polls for the next frame before it sleeps (native).",
        ),
        click.Option(
            ["--moderation-us"],
            type=click.IntRange(0, MODERATION_US_MAX),
            metavar="N",
            help="Longest pause of a worker in bulk transfers, in microseconds (native).",
        ),
        gro_option(", for pairs without a setting of their own"),
        click.Option(
            ["--ring"],
            type=click.IntRange(RING_MIN, RING_MAX),
            metavar="FRAMES",
            help="Frames that a device queues while vethd is busy, for ends without a setting of their own.",
        ),
    ]
)
@JSON
@click.pass_context
def engine(  # noqa: PLR0913 - one argument an option
    ctx: click.Context,
    *,
    spin_us: int | None,
    moderation_us: int | None,
    gro: bool | None,
    ring: int | None,
    as_json: bool,
) -> None:
    """Show the engine, or change the settings for all pairs.

    The engine forwards the frames. A change lasts until the daemon reads its configuration again. WORKERS,
    SPIN-US and MODERATION-US are empty if the daemon's own loop forwards (asyncio). FALLBACK is the reason why native
    does not forward.
    """
    client = client_of(ctx)
    change = EngineChange(spin_us=spin_us, moderation_us=moderation_us, gro=gro, ring=ring)
    info = client.engine() if change == EngineChange() else client.set_engine(change)
    if as_json:
        echo_json(info)
    elif change == EngineChange():
        show_table(engine_table(info))


def engine_table(info: EngineInfo) -> Table:
    """Return a table with one row that describes the engine."""
    table = Table(("ENGINE", ">WORKERS", ">SPIN-US", ">MODERATION-US", "GRO", ">RING", "FALLBACK"))
    times = ["" if value is None else str(value) for value in (info.spin_us, info.moderation_us)]
    table.add(info.name, str(info.workers or ""), *times, "on" if info.gro else "off", str(info.ring), info.fallback)
    return table


@click.command()
@click.pass_context
def save(ctx: click.Context) -> None:
    """Save the run-time pairs; the daemon makes them again at boot."""
    saved = client_of(ctx).save()
    click.echo(f"{saved.pairs} pair{'' if saved.pairs == 1 else 's'} in {saved.file}")


@click.command()
@click.pass_context
def reload(ctx: click.Context) -> None:
    """Have the daemon read its configuration again.

    Prints the numbers of pairs that were created, changed and deleted, and of pairs that wait.
    """
    done = client_of(ctx).reload()
    click.echo(f"{done.created} created, {done.changed} changed, {done.deleted} deleted, {done.waiting} waiting")


def asked_names(info: PairInfo) -> set[str]:
    """Return the names that were requested for a pair's ends."""
    return {name for name in (info.spec.name, info.spec.far_end().name) if name}
