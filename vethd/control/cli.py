"""The parts that all vethctl commands share: exit statuses, access to the daemon, and JSON output."""

from __future__ import annotations

from typing import Any, ClassVar

import click
import msgspec
from click.shell_completion import CompletionItem

from vethd.control.client import Client
from vethd.control.errors import DaemonDown
from vethd.model.errors import ConfigError, VethError

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
COMPLETION_TIMEOUT_S = 1.0

EXIT_STATUS = (
    (0, "success"),
    (1, "the daemon or the kernel refused the request, or doctor found that a requirement is missing"),
    (2, "wrong usage"),
    (3, "no daemon can be reached"),
    (4, "a file has an error; the message names the key and the reason"),
    (EXIT_INTERRUPTED, "interrupted by Ctrl-C (monitor and top exit with 0)"),
)


class Failure(click.ClickException):
    """A command's failure: one sentence on stderr."""

    def show(self, file: Any = None) -> None:
        """Print the sentence as "vethctl: newlink va: File exists"."""
        click.echo(f"vethctl: {self.format_message()}", file=file, err=file is None)


class Refused(Failure):
    """The daemon or the kernel refused the request."""

    exit_code: ClassVar[int] = 1


class Unreachable(Failure):
    """No daemon answers."""

    exit_code: ClassVar[int] = 3


class BadFile(Failure):
    """A file cannot be read, or has an error."""

    exit_code: ClassVar[int] = 4


class Vethctl(click.Group):
    """The group of all commands; the one place that maps their exceptions to exit status and message."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except VethError as error:
            raise Refused(str(error)) from error
        except DaemonDown as error:
            raise Unreachable(str(error)) from error
        except ConfigError as error:
            raise BadFile(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


def client_of(ctx: click.Context) -> Client:
    """Return the client that the group's --socket made."""
    return ctx.ensure_object(Client)


def echo_json(value: Any, *, lines: bool = False) -> None:
    """Print API structs as JSON: indented, or (lines) one line each."""
    encoded = msgspec.json.encode(value)
    click.echo(encoded if lines else msgspec.json.format(encoded, indent=2))


def complete_link(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of living links for the shell's completion; none if no daemon answers in time."""
    client = Client(ctx.find_root().params.get("socket"), COMPLETION_TIMEOUT_S)
    try:
        links = client.links()
    except (VethError, DaemonDown):
        return []
    return [
        CompletionItem(link.name, help=f"netns {link.netns}" if link.netns else None)
        for link in links
        if link.name.startswith(incomplete)
    ]


JSON = click.option("--json", "as_json", is_flag=True, help="Print the API's structs as JSON.")
FIND_NETNS = click.option(
    "--netns", "--in", "netns", metavar="NETNS", help="Namespace of NAME; by default all are searched."
)
