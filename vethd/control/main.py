"""vethctl: control a running vethd."""

from __future__ import annotations

import sys

import click
from click.shell_completion import ShellComplete, get_completion_class

from vethd import __version__
from vethd.control.apply import apply
from vethd.control.capture import capture
from vethd.control.cli import EXIT_INTERRUPTED, EXIT_STATUS, Vethctl
from vethd.control.client import DEFAULT_SOCKET, SOCKET_VARIABLE, Client
from vethd.control.commands import add, delete, engine, reload, save, set_
from vethd.control.doctor import doctor
from vethd.control.drops import drops
from vethd.control.latency import latency
from vethd.control.live import monitor, top
from vethd.control.show import show, stats
from vethd.control.why import why

PROG = "vethctl"
COMPLETE_VARIABLE = "_VETHCTL_COMPLETE"
SHELLS = ("bash", "zsh", "fish")

EPILOG = "\b\nExit status:\n" + "\n".join(f"  {status:<3}  {meaning}" for status, meaning in EXIT_STATUS)


@click.group(cls=Vethctl, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--socket",
    metavar="PATH",
    envvar=SOCKET_VARIABLE,
    default=DEFAULT_SOCKET,
    show_default=True,
    show_envvar=True,
    help="The daemon's control socket.",
)
@click.version_option(__version__, prog_name=PROG)
@click.pass_context
def cli(ctx: click.Context, socket: str) -> None:
    """Make, change, show and delete pairs of vethd, which is veth in userspace."""
    ctx.obj = Client(socket)


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a shell's completion script for vethctl.

    \b
    bash: vethctl completion bash > /etc/bash_completion.d/vethctl
    zsh:  vethctl completion zsh > /usr/share/zsh/site-functions/_vethctl
    fish: vethctl completion fish > ~/.config/fish/completions/vethctl.fish
    """  # noqa: D301  click's mark for "do not wrap"
    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"no completion for {shell}")
    # not complete.source(): for bash it starts a bash to check its version
    click.echo(ShellComplete.source(complete(cli, {}, PROG, COMPLETE_VARIABLE)))


for _command in (
    add,
    delete,
    set_,
    show,
    stats,
    why,
    drops,
    capture,
    latency,
    monitor,
    top,
    apply,
    engine,
    save,
    reload,
    doctor,
):
    cli.add_command(_command)


def main() -> None:
    """Run vethctl and exit with its status."""
    try:
        cli(prog_name=PROG, complete_var=COMPLETE_VARIABLE)
    except KeyboardInterrupt:  # before or after click's own handling
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
