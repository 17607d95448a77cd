"""vethctl drops: the last frames that vethd dropped, with their headers."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Generator, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

import click

from vethd import __version__
from vethd.control.cli import FIND_NETNS, JSON, BadFile, client_of, complete_link, echo_json
from vethd.control.client import Client
from vethd.control.table import Table, is_terminal, width, wrapped
from vethd.control.table import show as show_table
from vethd.model import pcapng
from vethd.model.drops import Drop, KernelDrop
from vethd.model.headers import summary
from vethd.model.insight import DROPS_SHOWN, DROPS_SHOWN_MAX, DroppedFrame, DroppedFrames

COLUMNS = ("TIME", "FROM", "TO", "REASON", ">LENGTH", "FRAME")
REASONS = tuple(drop.label for drop in Drop)
FOLLOW_S = 0.2
NS = 1_000_000_000

Batch = tuple[list[DroppedFrame], int]  # and the number of those that were dropped and not kept


@click.command()
@click.argument("name", required=False, shell_complete=complete_link)
@FIND_NETNS
@click.option(
    "-n",
    "most",
    metavar="N",
    type=click.IntRange(1, DROPS_SHOWN_MAX),
    help=f"Show the newest N (default {DROPS_SHOWN}).",
)
@click.option(
    "--reason", type=click.Choice(REASONS), metavar="REASON", help="Show frames dropped for that reason only."
)
@click.option("--follow", "-f", is_flag=True, help="Then print frames as they are dropped, until Ctrl-C.")
@click.option(
    "-w", "file", metavar="FILE", help='Write the frames to FILE in pcapng, for Wireshark and tcpdump; "-" is stdout.'
)
@JSON
@click.pass_context
def drops(  # noqa: PLR0913 - one argument an option
    ctx: click.Context,
    name: str | None,
    netns: str | None,
    most: int | None,
    reason: str | None,
    *,
    follow: bool,
    file: str | None,
    as_json: bool,
) -> None:
    """Show the last frames that vethd dropped, of all pairs or of the pair with an end called NAME.

    FROM sent the frame, TO would have received it. vethd keeps the last 64 frames of each direction, with their first
    128 bytes. The kernel's own drops (reasons kernel_...) are only counted: vethd never read those frames. REASON of
    --reason is one of no_peer, peer_down, no_carrier, oversize, runt, bad_vnet_header, write_error, stale. With
    --json each line is one DroppedFrame.
    """
    client = client_of(ctx)
    if name is None and netns is not None:
        raise click.UsageError("--netns needs NAME", ctx)
    if as_json and file is not None:
        raise click.UsageError("--json and -w exclude each other", ctx)
    pair = None if name is None else client.link(name, netns).pair
    found = client.drops(pair, most=most or (DROPS_SHOWN_MAX if file else DROPS_SHOWN), reason=reason)
    batches = _batches(client, found, pair, reason, follow=follow)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(batches):
        if file is not None:
            _write(file, batches)
        elif as_json:
            for frames, _ in batches:
                for frame in frames:
                    echo_json(frame, lines=True)
        elif follow:
            for frames, missed in batches:
                _print(frames, missed)
        else:
            show_table(drops_table(found.frames))
            for line in uncounted(client, pair) if reason is None else ():
                click.echo(wrapped("", line, width()) if is_terminal() else line)


def drops_table(frames: list[DroppedFrame]) -> Table:
    """Return a table of dropped frames, one row each."""
    table = Table(COLUMNS)
    for frame in frames:
        table.add(*cells(frame))
    return table


def cells(frame: DroppedFrame) -> tuple[str, str, str, str, str, str]:
    """Return the texts of one row: time of day, both ends, reason, length in bytes, and what the headers say."""
    clock = datetime.fromtimestamp(frame.time_ns // NS).astimezone().strftime("%H:%M:%S")
    reason = f"{frame.reason}:{frame.errno}" if frame.errno and frame.reason == Drop.WRITE_ERROR.label else frame.reason
    text = summary(frame.data)
    if frame.frames > 1:
        text += f" ({frame.frames} frames, coalesced)"
    ends = (_end(frame.link, frame.netns), _end(frame.peer_name, frame.peer_netns))
    return (f"{clock}.{frame.time_ns % NS // 1000:06}", *ends, reason, str(frame.length), text)


def comment(frame: DroppedFrame) -> str:
    """Return the sentence that a capture file has for the frame: "vethd: dropped: oversize: 1642 bytes, ..."."""
    text = f"vethd: dropped: {frame.reason}"
    if frame.errno:
        text += f" ({frame.errno})"
    if frame.reason == Drop.OVERSIZE.label:
        text += f": {frame.length} bytes, {frame.peer_name} takes {frame.limit}"
    return text


def uncounted(client: Client, pair: str | None) -> Iterator[str]:
    """Yield a sentence for each reason for which the kernel dropped frames that vethd never read."""
    for link in client.stats():
        if pair is None or link.pair == pair:
            for reason in KernelDrop:
                if number := link.drops.get(reason.value, 0):
                    yield f"{_end(link.name, link.netns)}: {reason.value}={number}, of which vethd has no headers"


def _batches(
    client: Client, first: DroppedFrames, pair: str | None, reason: str | None, *, follow: bool
) -> Generator[Batch, None, None]:
    """Yield the first frames, then, to follow, those that are dropped later."""
    before = first
    newest_ns = max((frame.time_ns for frame in first.frames), default=0)
    yield first.frames, 0
    while follow:
        time.sleep(FOLLOW_S)
        now = client.drops(pair, most=DROPS_SHOWN_MAX, reason=reason, after=before.seq)
        if now.seq < before.seq:  # the daemon was started again, or pairs are gone
            now = client.drops(pair, most=DROPS_SHOWN_MAX, reason=reason)
            frames, missed = [frame for frame in now.frames if frame.time_ns > newest_ns], 0
        else:
            frames = now.frames
            missed = max(0, now.total - before.total - sum(frame.frames for frame in frames))
        before = now
        if frames or missed:
            newest_ns = max([newest_ns, *(frame.time_ns for frame in frames)])
            yield frames, missed


def _print(frames: list[DroppedFrame], missed: int) -> None:
    if missed:
        click.echo(f"{missed} more frames were dropped meanwhile, and not kept")
    for frame in frames:
        click.echo("  ".join(cells(frame)))


def _write(file: str, batches: Iterator[Batch]) -> None:
    """Write a capture file. Its interfaces are described when the first frame of each comes."""
    numbers: dict[tuple[str, str], int] = {}
    written = 0
    try:
        with click.open_file(file, "wb") if file == "-" else Path(file).open("wb") as out:
            _emit(out, pcapng.section(f"vethd {__version__}", " ".join(os.uname()[::2])))
            for frames, _ in batches:
                _emit(out, b"".join(_blocks(frames, numbers)))
                written += len(frames)
    except BrokenPipeError:
        return
    except OSError as error:
        raise BadFile(f"{file}: {os.strerror(error.errno or errno.EIO)}") from error
    finally:
        click.echo(f"{written} frames in {'stdout' if file == '-' else file}", err=True)


def _emit(out: IO[bytes], data: bytes) -> None:
    out.write(data)
    out.flush()


def _blocks(frames: list[DroppedFrame], numbers: dict[tuple[str, str], int]) -> Iterator[bytes]:
    errors = {Drop.OVERSIZE.label: pcapng.PacketFlags.TOO_LONG, Drop.RUNT.label: pcapng.PacketFlags.TOO_SHORT}
    for frame in frames:
        key = (frame.pair, frame.link)
        if key not in numbers:
            numbers[key] = len(numbers)
            text = f"{_end(frame.link, frame.netns)}, pair {frame.pair}, peer {_end(frame.peer_name, frame.peer_netns)}"
            yield pcapng.interface(frame.link, text)
        yield pcapng.packet(
            numbers[key],
            frame.time_ns,
            frame.data,
            frame.length,
            flags=pcapng.PacketFlags.OUTBOUND | errors.get(frame.reason, pcapng.PacketFlags(0)),
            comment=comment(frame),
            number=frame.seq,
            queue=frame.queue,
            verdict=pcapng.VERDICT_DROPPED,
        )


def _end(name: str, netns: str) -> str:
    return f"{name}@{netns}" if netns else name
