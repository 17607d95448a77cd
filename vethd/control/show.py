"""vethctl show and stats: the pairs' present state, and their counters."""

from __future__ import annotations

import errno

import click

from vethd.control.cli import FIND_NETNS, JSON, client_of, complete_link, echo_json
from vethd.control.commands import asked_names
from vethd.control.table import Cell, Table, count, is_terminal, width, wrapped
from vethd.control.table import show as show_table
from vethd.model.api import LinkInfo, LinkStats, PairInfo
from vethd.model.drops import Drop
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec

SHOW_COLUMNS = ("LINK", "NETNS", ">INDEX", ">MTU", "ADDRESS", "STATE", "PEER", "SOURCE", "PAIR")
STATS_COLUMNS = (
    "LINK",
    "NETNS",
    ">RX-PACKETS",
    ">RX-BYTES",
    ">TX-PACKETS",
    ">TX-BYTES",
    "PEER",
    ">PEER-INDEX",
    "PEER-NETNS",
    "DROPS",
)


@click.command()
@click.argument("name", required=False, shell_complete=complete_link)
@FIND_NETNS
@JSON
@click.pass_context
def show(ctx: click.Context, name: str | None, netns: str | None, *, as_json: bool) -> None:
    """Show all pairs, or those with an end called NAME.

    NETNS "-" is the daemon's own namespace. STATE is "up" (both ends are up, the carrier is on), "no-carrier" (this
    end is up, its peer is not), "down", or "waiting" (the pair cannot be made now; REASON is why, on a terminal below
    the table). ATTACHMENT is the network, container and interface for which the CNI plugin made the pair; it is shown
    only if there is one.
    """
    client = client_of(ctx)
    if name is None and netns is not None:
        raise click.UsageError("--netns needs NAME", ctx)
    if name is None:
        pairs = client.pairs()
    elif netns is not None:
        pairs = [client.pair(client.link(name, netns).pair)]
    else:
        pairs = [info for info in client.pairs() if name in _names(info)]
        if not pairs:
            raise VethError(errno.ENODEV, "getlink", name, "vethd has no link of that name")
    if as_json:
        echo_json(pairs)
    elif not is_terminal():
        show_table(pairs_table(pairs, reasons=any(info.reason for info in pairs)))
    else:
        show_table(pairs_table(pairs, reasons=False))
        for info in pairs:
            if info.reason:
                click.echo(wrapped(f"{info.id}: ", info.reason, width()))


@click.command()
@click.argument("name", required=False, shell_complete=complete_link)
@FIND_NETNS
@JSON
@click.pass_context
def stats(ctx: click.Context, name: str | None, netns: str | None, *, as_json: bool) -> None:
    """Show the counters of all links, or of those called NAME.

    DROPS are the frames sent by the link that were dropped, by reason; those of a reason kernel_... were dropped
    by the kernel before vethd read them. rx_dropped is the kernel's counter of frames dropped at reception. On a
    terminal large numbers are shortened.
    """
    client = client_of(ctx)
    if name is None and netns is not None:
        raise click.UsageError("--netns needs NAME", ctx)
    if name is None:
        counters = client.stats()
    elif netns is not None:
        counters = [client.link_stats(name, netns)]
    else:
        counters = [one for one in client.stats() if one.name == name] or [client.link_stats(name)]
    if as_json:
        echo_json(counters)
    else:
        show_table(stats_table(counters, exact=not is_terminal()))


def pairs_table(pairs: list[PairInfo], *, reasons: bool) -> Table:
    """Return a table of pairs, two rows each, the near end first; reasons adds the column REASON."""
    attached = any(info.attachment for info in pairs)
    table = Table(SHOW_COLUMNS + (("ATTACHMENT",) if attached else ()) + (("REASON",) if reasons else ()))
    for info in pairs:
        attachment = (str(info.attachment or ""),) if attached else ()
        reason = (info.reason,) if reasons else ()
        for cells in [_link_cells(link) for link in info.links] or _waiting_cells(info):
            table.add(*cells, info.source, info.id, *attachment, *reason)
    return table


def stats_table(counters: list[LinkStats], *, exact: bool) -> Table:
    """Return a table of counters, one row for each link; exact False shortens large numbers."""
    table = Table(STATS_COLUMNS)
    for link in counters:
        numbers = (link.rx_packets, link.rx_bytes, link.tx_packets, link.tx_bytes)
        peer = (link.peer_name, str(link.peer_ifindex), link.peer_netns)
        table.add(link.name, link.netns, *(count(n, exact=exact) for n in numbers), *peer, drop_cells(link))
    return table


def drop_cells(link: LinkStats) -> tuple[str, ...]:
    """Return the reasons with a count that is not 0, as "oversize=3"; write_error is split by errno."""
    counts = {reason: number for reason, number in link.drops.items() if number}
    if link.write_errors:
        split = {f"{Drop.WRITE_ERROR.label}:{symbol}": number for symbol, number in link.write_errors.items() if number}
        counts.pop(Drop.WRITE_ERROR.label, None)
        counts.update(split)
    if link.rx_dropped:
        counts["rx_dropped"] = link.rx_dropped
    return tuple(f"{reason}={number}" for reason, number in counts.items())


def link_state(link: LinkInfo) -> str:
    """Return one word for admin state and carrier."""
    if not link.up:
        return "down"
    return "up" if link.carrier else "no-carrier"


def _link_cells(link: LinkInfo) -> tuple[Cell, ...]:
    return (
        link.name,
        link.netns,
        str(link.ifindex),
        str(link.mtu),
        link.address,
        link_state(link),
        link.peer_name,
    )


def _waiting_cells(info: PairInfo) -> list[tuple[Cell, ...]]:
    near, far = info.spec.near_end(), info.spec.far_end()
    return [_asked_cells(near, far), _asked_cells(far, near)]


def _asked_cells(link: LinkSpec, peer: LinkSpec) -> tuple[Cell, ...]:
    mtu = "" if link.mtu is None else str(link.mtu)
    return (link.name or "", link.netns or "", "", mtu, link.address or "", "waiting", peer.name or "")


def _names(info: PairInfo) -> set[str]:
    names = {name for link in info.links for name in (link.name, link.altname) if name}
    return names | {info.id} | (set() if info.links else asked_names(info))
