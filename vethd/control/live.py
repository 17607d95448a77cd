"""vethctl monitor and top: what happens, as it happens."""

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
from vethd.control.table import Table, count, is_terminal
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
    """Print events as they come, until Ctrl-C.

    A line holds time, event, link, namespace, pair and detail; with --json it is one PairEvent.
    """
    client = client_of(ctx)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(client.events()) as events:
        for event in events:
            if as_json:
                echo_json(event, lines=True)
            else:
                click.echo(event_line(event))
        raise DaemonDown(client.socket, "the events ended", "vethd has stopped")


@click.command()
@click.option(
    "--interval",
    "interval_s",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--count", "rounds", metavar="N", type=click.IntRange(min=1), help="End after N looks.")
@click.pass_context
def top(ctx: click.Context, interval_s: float, rounds: int | None) -> None:
    """Show every link's rates, until Ctrl-C or for --count looks.

    RX and TX are the link's own view. On a terminal the table stays in its place; in a pipe each look is a
    block, with an empty line behind it.
    """
    tables = rate_tables(client_of(ctx), interval_s, rounds)
    with contextlib.suppress(KeyboardInterrupt):
        if not is_terminal():
            for table in tables:
                click.echo(table.plain() + "\n")
            return
        from rich.live import Live  # noqa: PLC0415  60 ms that a pipe does without

        with Live(auto_refresh=False) as live:
            for table in tables:
                live.update(table.rich(), refresh=True)


def event_line(event: PairEvent) -> str:
    """Write an event as one line; the time is local, "-" stands for what the event does not say."""
    clock = datetime.fromtimestamp(event.time).astimezone().isoformat(sep=" ", timespec="milliseconds")
    words = (event.link or "-", event.netns or "-", event.pair or "-", event.detail)
    return f"{clock}  {event.event:<12}  {'  '.join(words)}".rstrip()


def rate_tables(client: Client, interval_s: float, rounds: int | None) -> Iterator[Table]:
    """Yield a table of rates every interval_s seconds, rounds times or for ever. Sleeps in between."""
    before = _sample(client)
    done = 0
    while rounds is None or done < rounds:
        time.sleep(max(0.0, before.at_s + interval_s - time.monotonic()))
        now = _sample(client)
        yield rates(before, now)
        before = now
        done += 1


def rates(before: Sample, now: Sample) -> Table:
    """Lay out what the links did between two samples, a second; a link that is new has to wait for its turn."""
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
