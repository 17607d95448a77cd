"""vethctl monitor and top: events as they happen, and rates."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import click

from vethd.control.cli import JSON, client_of, echo_json
from vethd.control.client import Client
from vethd.control.errors import DaemonDown
from vethd.control.table import Table, can_clear, count, is_terminal, width, wrapped
from vethd.model.api import LinkStats, PairEvent

TOP_COLUMNS = ("LINK", "NETNS", ">RX-PPS", ">RX-BIT/S", ">TX-PPS", ">TX-BIT/S", ">DROP/S", "PEER")
BITS = 8

Key = tuple[str, str, int]


class Sample(NamedTuple):
    """All links' counters at one instant; at_s is the monotonic clock, in seconds."""

    at_s: float
    links: dict[Key, LinkStats]


@click.command()
@JSON
@click.pass_context
def monitor(ctx: click.Context, *, as_json: bool) -> None:
    """Print events as they happen, until Ctrl-C.

    A line holds time, event, link, namespace, pair and detail; with --json each line is one PairEvent.
    """
    client = client_of(ctx)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(client.events()) as events:
        for event in events:
            if as_json:
                echo_json(event, lines=True)
            else:
                click.echo(event_line(event, width() if is_terminal() else None))
        raise DaemonDown(client.socket, "the event stream ended", "vethd has stopped")


@click.command()
@click.option(
    "--interval",
    "interval_s",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds between two updates.",
)
@click.option("--count", "rounds", metavar="N", type=click.IntRange(min=1), help="Exit after N updates.")
@click.pass_context
def top(ctx: click.Context, interval_s: float, rounds: int | None) -> None:
    """Show every link's rates, until Ctrl-C or for --count updates.

    RX and TX are from the link's own view. On a terminal the table is updated in place, unless TERM is dumb; in a
    pipe each update is a block of lines, followed by an empty line.
    """
    tables = rate_tables(client_of(ctx), interval_s, rounds)
    with contextlib.suppress(KeyboardInterrupt):
        if not is_terminal():
            for table in tables:
                click.echo(table.plain() + "\n")
            return
        for table in tables:
            if can_clear():
                click.clear()
            click.echo(table.fitted(width()))


def event_line(event: PairEvent, columns: int | None = None) -> str:
    """Return an event as one line; the time is local, and "-" marks a field that the event does not have.

    If columns is given and the line is longer, it is broken at spaces.
    """
    clock = datetime.fromtimestamp(event.time).astimezone().isoformat(sep=" ", timespec="milliseconds")
    words = (event.link or "-", event.netns or "-", event.pair or "-", event.detail)
    head, text = f"{clock}  {event.event:<12}  ", "  ".join(words).rstrip()
    return head + text if columns is None else wrapped(head, text, columns)


def rate_tables(client: Client, interval_s: float, rounds: int | None) -> Iterator[Table]:
    """Yield a table of rates every interval_s seconds, rounds times or without end. Sleeps in between."""
    before = _sample(client)
    done = 0
    while rounds is None or done < rounds:
        time.sleep(max(0.0, before.at_s + interval_s - time.monotonic()))
        now = _sample(client)
        yield rates(before, now)
        before = now
        done += 1


def rates(before: Sample, now: Sample) -> Table:
    """Return a table of the links' rates per second between two samples; leaves out links that are only in now."""
    table = Table(TOP_COLUMNS)
    seconds = now.at_s - before.at_s
    for key, link in now.links.items():
        old = before.links.get(key)
        if old is None:
            continue
        figures = (
            link.rx_packets - old.rx_packets,
            (link.rx_bytes - old.rx_bytes) * BITS,
            link.tx_packets - old.tx_packets,
            (link.tx_bytes - old.tx_bytes) * BITS,
            sum(link.drops.values()) - sum(old.drops.values()),
        )
        per_s = (count(max(figure, 0) / seconds, exact=False) for figure in figures)
        table.add(link.name, link.netns, *per_s, link.peer_name)
    return table


def _sample(client: Client) -> Sample:
    links = client.stats()
    return Sample(time.monotonic(), {(link.pair, link.netns, link.ifindex): link for link in links})
