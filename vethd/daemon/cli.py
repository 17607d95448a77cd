"""The command `vethd`: its options and subcommands. main.py calls it after adopted pairs have started to forward."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
from functools import partial

import click
import msgspec
import structlog

from vethd import __version__
from vethd.daemon.config import SOCKET, Config, read_config
from vethd.daemon.early import Early
from vethd.daemon.logs import set_up
from vethd.daemon.loop import is_fast, run_loop
from vethd.daemon.service import need_machine, raise_fd_limit, serve, tell_engine
from vethd.datapath.engines import ENGINES
from vethd.model.api import FORMER_ENGINES, MODERATION_US, MODERATION_US_MAX, SPIN_US, SPIN_US_MAX, WORKERS_MAX
from vethd.model.errors import ConfigError, VethError
from vethd.model.spec import RING, RING_MAX, RING_MIN, LinkSpec, PairSpec, validate_link
from vethd.pairs import open_pair

EXIT_REFUSED = 1
EXIT_CONFIG = 4

_LEVELS = ("debug", "info", "warning", "error")
_WORKERS_HELP = "Number of forwarding threads; 0 means half of the CPUs, at least one (native).  [default: 0]"
_SPIN_HELP = f"Microseconds that a thread polls for the next frame before it sleeps (native).  [default: {SPIN_US}]"
_MODERATION_HELP = f"Longest pause of a thread in bulk transfers, in microseconds (native).  [default: {MODERATION_US}]"
_RING_HELP = f"Frames that each device queues while vethd is busy.  [default: {RING}]"
_SOCKET_HELP = f"Serve the API on this socket.  [env var: VETHD_SOCKET; default: {SOCKET}]"


class _EngineName(click.Choice[str]):
    """The name of an engine. A former name is accepted, and not shown."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click.ParamType."""
        return value if value in FORMER_ENGINES else super().convert(value, param, ctx)


@click.group(
    invoke_without_command=True,
    epilog="Exit status: 0 success, 1 could not start, 2 wrong usage, 4 error in the config file.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__)
@click.option("--config", "config_path", metavar="FILE", help="Read settings and pairs from this TOML file.")
@click.option("--socket", metavar="PATH", envvar="VETHD_SOCKET", help=_SOCKET_HELP)
@click.option("--engine", type=_EngineName(ENGINES), help="Engine that forwards the frames.  [default: auto]")
@click.option("--workers", type=click.IntRange(0, WORKERS_MAX), metavar="N", help=_WORKERS_HELP)
@click.option("--spin-us", type=click.IntRange(0, SPIN_US_MAX), metavar="N", help=_SPIN_HELP)
@click.option("--moderation-us", type=click.IntRange(0, MODERATION_US_MAX), metavar="N", help=_MODERATION_HELP)
@click.option("--log-level", type=click.Choice(_LEVELS), help="Lowest level to log.  [default: info]")
@click.option("--replace", is_flag=True, help="Take over all pairs from the running daemon, if any, which then exits.")
@click.option("--check-config", is_flag=True, help="Check the config file, print the first error, and exit.")
@click.pass_context
def cli(  # noqa: PLR0913 - one argument an option
    ctx: click.Context,
    *,
    config_path: str | None,
    socket: str | None,
    engine: str | None,
    workers: int | None,
    spin_us: int | None,
    moderation_us: int | None,
    log_level: str | None,
    replace: bool,
    check_config: bool,
) -> None:
    """Run veth in userspace: pairs of TAP devices that behave like the kernel's veth.

    Without a config file the daemon starts with no pairs; `vethctl add` makes them. Options on the command
    line (and VETHD_SOCKET) override the config file. SIGHUP makes the daemon read the file again and change
    only what differs. SIGTERM and SIGINT make it exit.
    """
    if check_config and config_path is None:
        raise click.UsageError("--check-config needs --config FILE")
    options = {
        "socket": socket,
        "engine": engine,
        "workers": workers,
        "spin_us": spin_us,
        "moderation_us": moderation_us,
        "log_level": log_level,
    }
    said = {key: value for key, value in options.items() if value is not None}

    def read(path: str) -> Config:
        return msgspec.structs.replace(read_config(path), **said)

    early = ctx.ensure_object(Early)
    config = read(config_path) if config_path else Config(**said)  # type: ignore[arg-type]
    set_up(config.level, config.log_format)
    ctx.obj = config
    if check_config:
        click.echo(f"{config_path}: {len(config.pair)} pairs, no errors")
    elif ctx.invoked_subcommand is None:
        reread = partial(read, config_path) if config_path else None
        tell_loop()
        run_loop(serve(config, reread, early, replace=replace), early.loop_factory())


@cli.command()
@click.argument("near", metavar="NAME[@NETNS]")
@click.argument("peer", metavar="PEER[@NETNS]")
@click.option("--mtu", type=int, help="MTU of both ends, in bytes.")
@click.option("--up/--no-up", default=True, show_default=True, help="Bring both ends up.")
@click.option(
    "--rx-checksum",
    type=click.Choice(["verify", "trust"]),
    help="How to treat frames whose checksum is not verified: leave them (verify) or mark them as verified (trust)."
    "  [default: verify]",
)
@click.option("--gro", type=click.Choice(["on", "off"]), help="Coalesce frames of one flow.  [default: on]")
@click.option("--ring", type=click.IntRange(RING_MIN, RING_MAX), metavar="FRAMES", help=_RING_HELP)
@click.option("--latency-queue", is_flag=True, help="Give frames other than TCP a queue of their own, read first.")
@click.pass_obj
def pair(  # noqa: PLR0913 - one argument an option
    config: Config,
    near: str,
    peer: str,
    *,
    mtu: int | None,
    up: bool,
    rx_checksum: str | None,
    gro: str | None,
    ring: int | None,
    latency_queue: bool,
) -> None:
    """Run one pair in the foreground, without an API socket, until Ctrl-C or until an end is deleted.

    NETNS is a name of `ip netns`, a path, a PID or fd:N. Without NETNS the end is in the current namespace.
    """
    need_machine()
    raise_fd_limit()
    ends = [_end(text, mtu, up=up, ring=ring or config.ring) for text in (near, peer)]
    gro_on = config.gro if gro is None else gro == "on"
    own = {"rx_checksum": rx_checksum, "gro": gro_on, "latency_queue": latency_queue}
    spec = msgspec.convert(ends[0].attributes() | own | {"peer": ends[1]}, PairSpec)
    tell_loop()
    run_loop(_foreground(spec, config))


def tell_loop() -> None:
    """Log what it costs if uvloop is not installed."""
    if not is_fast():
        reason = "uvloop is not installed; requests and the asyncio engine take longer"
        structlog.get_logger().info("asyncio's own loop", reason=reason)


def _end(text: str, mtu: int | None, *, up: bool, ring: int) -> LinkSpec:
    name, _, netns = text.partition("@")
    link = LinkSpec(name=name or None, netns=netns or None, mtu=mtu, up=up or None, ring=ring)
    validate_link(link)
    return link


async def _foreground(spec: PairSpec, config: Config) -> None:
    log = structlog.get_logger()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asked = config.asked
    async with open_pair(
        spec, engine=asked.name, workers=asked.workers, spin_us=asked.spin_us, moderation_us=asked.moderation_us
    ) as living:
        near, far = living.near, living.far
        tell_engine(asked, living.engine)
        ends = {"near": near.name, "netns": near.netns, "peer": far.name, "peer_netns": far.netns}
        log.info("forwarding", **ends, engine=living.engine.name)
        gone, stopped = asyncio.ensure_future(living.wait_gone()), asyncio.ensure_future(stop.wait())
        await asyncio.wait((gone, stopped), return_when=asyncio.FIRST_COMPLETED)
        lost = gone.done()
        for task in (gone, stopped):
            task.cancel()
        await asyncio.gather(gone, stopped, return_exceptions=True)
        if lost:
            raise VethError(errno.ENODEV, "pair", near.name, "an end was deleted, so the pair is gone")


def run(early: Early) -> None:
    """Run the command, and print an error as one sentence on stderr."""
    try:
        cli(obj=early)
    except ConfigError as error:
        click.echo(f"vethd: {error}", err=True)
        sys.exit(EXIT_CONFIG)
    except VethError as error:
        click.echo(f"vethd: {error}", err=True)
        sys.exit(EXIT_REFUSED)
