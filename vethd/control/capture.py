"""vethctl capture: a pair's frames as they pass, into a capture file or as lines.

Theory of operation. The daemon copies frames into shared memory, and does nothing else for a capture. Everything here
is the client's work, at its own pace and on its own CPU time: it completes checksums and formats frames. Frames for
which it was too slow are counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Literal

import click

from vethd.control.cli import FIND_NETNS, client_of, complete_link
from vethd.control.filters import compiled
from vethd.control.rings import Capture, CapturedFrame
from vethd.control.sinks import FileSink, Sink
from vethd.model.capture import DROPPED, RECEIVED
from vethd.model.drops import Drop
from vethd.model.errors import symbol
from vethd.model.headers import summary
from vethd.model.insight import CAPTURE_BUFFER, CAPTURE_BUFFER_MAX, SNAPLEN_MAX, CaptureSpec

IDLE_S = 0.05
NICE = 19
NS = 1_000_000_000
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNITS = {"": 1, "k": 1000, "M": 1_000_000, "G": 1_000_000_000}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


class Size(click.ParamType[int]):
    """A number of bytes: 500k, 100M."""

    name = "SIZE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        if isinstance(value, int):
            return value
        digits = value.rstrip("kMG")
        unit = _UNITS.get(value[len(digits) :])
        if unit is None or not digits.isascii() or not digits.isdigit() or int(digits) == 0:
            self.fail(f"{value!r} is no size such as 4M, 500k or 100000", param, ctx)
        return int(digits) * unit


class Duration(click.ParamType[float]):
    """A time: 500ms, 30s, 5m, 1h."""

    name = "TIME"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the time in seconds."""
        if isinstance(value, float):
            return value
        digits = value.rstrip("msh")
        unit = _SECONDS.get(value[len(digits) :])
        try:
            seconds = float(digits) * (unit or 0)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is no time such as 30s, 500ms or 5m", param, ctx)
        return seconds


@click.command()
@click.argument("name", shell_complete=complete_link)
@click.argument("filter", nargs=-1)
@FIND_NETNS
@click.option("-w", "file", metavar="FILE", help='Write pcapng to FILE, for Wireshark and tcpdump; "-" is stdout.')
@click.option(
    "-s", "snaplen", type=click.IntRange(1, SNAPLEN_MAX), default=SNAPLEN_MAX, help="Bytes of a frame to keep."
)
@click.option("-c", "count", metavar="N", type=click.IntRange(min=1), help="End after N frames.")
@click.option("--for", "for_s", metavar="TIME", type=Duration(), help="End after that time, such as 30s or 5m.")
@click.option("--drops", type=click.Choice(("also", "only", "no")), default="also", help="Frames that vethd drops.")
@click.option("--ends", type=click.Choice(("one", "both")), default="one", help="See frames at the receiver, too.")
@click.option(
    "--checksum", type=click.Choice(("complete", "raw")), default="complete", help="Complete checksums, or not."
)
@click.option("--segment", is_flag=True, help="Cut super-frames into the segments that will leave the machine.")
@click.option("--vlan-too", is_flag=True, help="Also accept frames with a VLAN tag that match FILTER behind it.")
@click.option("--rotate-size", metavar="SIZE", type=Size(), help="Begin a new file after so many bytes, such as 100M.")
@click.option("--rotate-time", metavar="TIME", type=Duration(), help="Begin a new file after that time.")
@click.option("--files", metavar="N", type=click.IntRange(min=1), help="Keep the newest N files when rotating.")
@click.option(
    "--buffer", metavar="SIZE", type=Size(), default=CAPTURE_BUFFER, help="Memory for frames (default 4 MiB)."
)
@click.pass_context
def capture(  # noqa: PLR0913 - one argument an option
    ctx: click.Context,
    name: str,
    filter: tuple[str, ...],  # noqa: A002 - the name in the usage line
    netns: str | None,
    *,
    file: str | None,
    snaplen: int,
    count: int | None,
    for_s: float | None,
    drops: Literal["also", "only", "no"],
    ends: Literal["one", "both"],
    checksum: str,
    segment: bool,
    vlan_too: bool,
    rotate_size: int | None,
    rotate_time: float | None,
    files: int | None,
    buffer: int,
) -> None:
    """Show or record the frames of the pair with an end called NAME, until Ctrl-C.

    Both directions are captured, from outside the namespaces. FILTER is an expression of tcpdump ("udp port 53"), in
    one argument or several. Without -w, each frame is printed as a line. In a file, interface 0 is the near end and 1
    the far one, and a dropped frame has a comment with the reason. Live in Wireshark: vethctl capture NAME -w - |
    wireshark -k -i -
    """
    if buffer > CAPTURE_BUFFER_MAX:
        raise click.UsageError(f"--buffer: at most {CAPTURE_BUFFER_MAX} bytes", ctx)
    if (rotate_size or rotate_time or files) and file in (None, "-"):
        raise click.UsageError("--rotate-size, --rotate-time and --files need -w FILE", ctx)
    if segment and (checksum == "raw" or file is None):
        raise click.UsageError("--segment needs -w, and completes checksums", ctx)
    if files and not (rotate_size or rotate_time):
        raise click.UsageError("--files needs --rotate-size or --rotate-time", ctx)
    client = client_of(ctx)
    expression = " ".join(filter)
    program = compiled(expression, tagged=vlan_too)
    pair = client.link(name, netns).pair
    with contextlib.suppress(OSError):
        os.nice(NICE)
    spec = CaptureSpec(filter=program, snaplen=snaplen, buffer=buffer, drops=drops, ends=ends)
    with _signals() as asked, client.capture(pair, spec) as running:
        sink: Sink = LineSink(running)
        if file is not None:
            sink = FileSink(running, file, expression, complete=checksum == "complete", segment=segment)
        end_s = None if for_s is None else time.monotonic() + for_s
        with contextlib.suppress(BrokenPipeError), sink:
            sink.begin(rotate_size, rotate_time, files)
            for frames in _batches(running, count, lambda: bool(asked) or (end_s and time.monotonic() >= end_s)):
                sink.write(frames)
        _report(running, sink)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask for the end, instead of being interrupted by them: what is written stays whole."""
    asked: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: asked.append(number)) for number in _ENDING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _batches(running: Capture, count: int | None, over: Callable[[], object]) -> Iterator[list[CapturedFrame]]:
    """Yield frames as they come, until there were count, the daemon has ended the capture, or over() is true."""
    left = count
    while not running.ended and not over():
        frames = running.take()[:left]
        if frames:
            yield frames
        if left is not None:
            left -= len(frames)
            if left == 0:
                return
        if not frames:
            running.wait(IDLE_S)
    frames = running.take(last=True)[:left]
    if frames:
        yield frames


class LineSink(Sink):
    """Prints a line for each frame."""

    def begin(self, size: int | None, seconds: float | None, files: int | None) -> None:
        """Do nothing: there is no file."""

    def write(self, frames: list[CapturedFrame]) -> None:
        """Print the lines."""
        for frame in frames:
            click.echo(self._line(frame))
        self.written += len(frames)
        self.note_drops(frames)

    def finish(self) -> None:
        """Do nothing: each line is whole."""

    def _line(self, frame: CapturedFrame) -> str:
        record = frame.record
        clock = datetime.fromtimestamp(record.time_ns // NS).astimezone().strftime("%H:%M:%S")
        names = [end.name for end in self.running.info.ends]
        sender = names[1 - frame.interface] if record.kind == RECEIVED else names[frame.interface]
        receiver = names[frame.interface] if record.kind == RECEIVED else names[1 - frame.interface]
        way = f"{sender} > {receiver}" + (" (received)" if record.kind == RECEIVED else "")
        text = f"{clock}.{record.time_ns % NS // 1000:06}  {way}  {record.length} bytes  {summary(record.data)}"
        if record.kind == DROPPED:
            reason = Drop(record.reason).label
            text += f"  [dropped: {reason}" + (f", {symbol(record.error)}]" if record.error else "]")
        return text


def _report(running: Capture, sink: Sink) -> None:
    counts = running.counts()
    lost = sum(one.lost for one in counts)
    text = f"{sink.written} frames, {lost} not kept, {sink.dropped} dropped by vethd"
    if running.ended:
        text += "; the capture ended, because the pair or the daemon did"
    click.echo(text, err=True)
