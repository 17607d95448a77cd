"""vethctl latency: how long frames were in vethd."""

from __future__ import annotations

import errno

import click

from vethd.control.cli import FIND_NETNS, JSON, client_of, complete_link, echo_json
from vethd.control.table import Table
from vethd.control.table import show as show_table
from vethd.model.errors import VethError
from vethd.model.insight import LinkLatency
from vethd.model.latency import longest, quantile

COLUMNS = ("FROM", "TO", ">FRAMES", ">AVERAGE", ">P50", ">P90", ">P99", ">P99.9", ">MAX")
QUANTILES = (0.5, 0.9, 0.99, 0.999)
BAR = 50
_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1000, "us"), (1, "ns"))


@click.command()
@click.argument("name", required=False, shell_complete=complete_link)
@FIND_NETNS
@click.option("--histogram", is_flag=True, help="Show the frames by time, as bars.")
@JSON
@click.pass_context
def latency(ctx: click.Context, name: str | None, netns: str | None, *, histogram: bool, as_json: bool) -> None:
    """Show how long frames were in vethd, for all pairs or the pair with an end called NAME.

    The time is that of a frame's turn: from before vethd reads it to after it has written it, or dropped it. The time
    in which it waited in the sender's device is not in it. Times are upper bounds, at most a quarter too long, since
    the pair was made or the daemon was started.
    """
    client = client_of(ctx)
    if name is None and netns is not None:
        raise click.UsageError("--netns needs NAME", ctx)
    found = client.latency()
    if name is not None:
        pair = client.link(name, netns).pair
        found = [one for one in found if one.pair == pair]
        if not found:
            raise VethError(errno.ENODEV, "latency", name)
    if as_json:
        echo_json(found)
        return
    show_table(latency_table(found))
    if histogram:
        for one in found:
            if any(one.counts):
                click.echo(f"\n{_end(one.name, one.netns)} to {_end(one.peer_name, one.peer_netns)}:")
                show_table(bars(one))


def latency_table(found: list[LinkLatency]) -> Table:
    """Return a table of the times of each direction, one row each."""
    table = Table(COLUMNS)
    for one in found:
        frames = sum(one.counts)
        times = [quantile(one.counts, share) for share in QUANTILES]
        average = one.total_ns // frames if frames else None
        cells = [text(value) for value in (average, *times, longest(one.counts))]
        table.add(_end(one.name, one.netns), _end(one.peer_name, one.peer_netns), str(frames), *cells)
    return table


def bars(one: LinkLatency) -> Table:
    """Return a table with a bar for each bucket, from the first to the last that has frames."""
    table = Table((">BELOW", ">FRAMES", "SHARE"))
    used = [number for number, count in enumerate(one.counts) if count]
    most = max(one.counts)
    for number in range(used[0], used[-1] + 1):
        count = one.counts[number]
        table.add(text(one.bounds_ns[number]), str(count), "#" * -(-count * BAR // most))
    return table


def text(ns: int | None) -> str:
    """Return a time with three digits and its unit, "" for None."""
    if ns is None:
        return ""
    for size, unit in _UNITS:
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def _end(name: str, netns: str) -> str:
    return f"{name}@{netns}" if netns else name
