"""Generate the man pages from the commands' help texts: `tools/man.py DIR`, with the environment's python.

vethctl.1 describes vethctl as a whole, vethctl-add.1 and the like its commands, vethd.8 the daemon. vethd-run.8,
vethd-ip.8 and vethd-cni.8 describe the programs that stand between other programs and vethd. The pages contain no date:
the same source gives the same pages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from vethd import __version__
from vethd.control.cli import EXIT_STATUS
from vethd.control.client import DEFAULT_SOCKET, SOCKET_VARIABLE
from vethd.control.main import PROG, cli
from vethd.daemon.cli import cli as daemon

DAEMON_PROG = "vethd"
DAEMON_SUMMARY = "veth in userspace: pairs of TAP devices that behave like the kernel's veth"

CLIENTS = {
    "vethd-run": (
        "run a program with its veth links made by vethd",
        ("[--log FILE] [--] PROGRAM [ARGS...]", "[--dry-run] --install|--uninstall docker|podman|lxc|nspawn|networkd"),
        (
            "Runs PROGRAM in its own place. A running vethd makes the veth links that the program and its children ask"
            " the kernel for, and they see these links as veths.\n\n"
            "--install puts vethd-run in front of a service, by a drop-in or a wrapper; --uninstall removes it again,"
            " and --dry-run shows the files.\n\n"
            "--log appends to FILE what was not as usual. The exit status is the program's; 127 if there is no such"
            " program, 126 if it cannot be executed, 2 for a wrong option."
        ),
        "seccomp_unotify(2)",
    ),
    "vethd-ip": (
        "replacement for ip(8) that makes veth links with vethd",
        ("install [--real IP] DIR", "IP-ARGUMENTS..."),
        (
            "Runs the real ip(8), except for links of type veth: it makes, deletes and shows these as pairs of a"
            " running vethd.\n\n"
            "`install` writes one file named `ip` into DIR. Put DIR first on PATH, and scripts that use veth run"
            " unchanged. --real gives the path of the real ip(8); by default it is the first one on PATH that is not"
            " vethd-ip."
        ),
        "ip-link(8)",
    ),
    "vethd-cni": (
        "container network (CNI) plugin of vethd",
        ("install DIR",),
        (
            "Connects containers to a network with pairs of a running vethd. Container runtimes start the plugin with"
            " CNI_COMMAND in its environment.\n\n"
            "`install` writes the plugin into DIR. Container runtimes look for plugins in /opt/cni/bin or /usr/lib/cni."
        ),
        "podman-network(1)",
    ),
}

_CODE = re.compile(r"`([^`]+)`")


def pages() -> Iterator[tuple[str, str]]:
    """Yield every page as file name and roff text."""
    context = click.Context(cli, info_name=PROG, **cli.context_settings)
    subpages = {name: command for name, command in cli.commands.items() if not command.hidden}
    related = [f"{PROG}-{name}(1)" for name in sorted(subpages)]
    main_page = [
        *_head(PROG, 1, "control a running vethd"),
        *_synopsis(PROG, context),
        *_description(cli),
        *_options(context),
        ".SH COMMANDS",
        *_commands(subpages),
        *_exit_status(),
        *_surroundings(),
        *_see_also(["vethd(8)", *related, "ip-link(8)", "veth(4)"]),
    ]
    yield f"{PROG}.1", _text(main_page)
    for name, command in sorted(subpages.items()):
        title = f"{PROG}-{name}"
        inner = click.Context(command, info_name=name, parent=context)
        lines = [
            *_head(title, 1, command.get_short_help_str(limit=200).removesuffix(".")),
            *_synopsis(f"{PROG} {name}", inner),
            *_description(command),
            *_options(inner),
            *_exit_status(),
            *_see_also([f"{PROG}(1)", "vethd(8)"]),
        ]
        yield f"{title}.1", _text(lines)
    yield f"{DAEMON_PROG}.8", _text(_daemon_page(daemon))
    for name, (summary, usages, description, related_page) in CLIENTS.items():
        lines = [*_head(name, 8, summary), ".SH SYNOPSIS"]
        for usage in usages:
            lines += [f".B {_escape(name)}", _escape(usage), ".br"]
        lines += [".SH DESCRIPTION", *_paragraphs(description), *_see_also(["vethd(8)", related_page])]
        yield f"{name}.8", _text(lines)


def write(directory: Path) -> list[Path]:
    """Write every page into the directory, which is created if it is missing, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _daemon_page(daemon: click.Command) -> list[str]:
    """Return vethd.8, with a subsection for each subcommand of the daemon."""
    context = click.Context(daemon, info_name=DAEMON_PROG, **daemon.context_settings)
    lines = [
        *_head(DAEMON_PROG, 8, DAEMON_SUMMARY),
        *_synopsis(DAEMON_PROG, context),
        *_description(daemon),
        *_options(context),
    ]
    subcommands = daemon.commands if isinstance(daemon, click.Group) else {}
    if subcommands:
        lines.append(".SH COMMANDS")
    for name, command in sorted(subcommands.items()):
        inner = click.Context(command, info_name=name, parent=context)
        usage = " ".join(command.collect_usage_pieces(inner))
        lines += [f".SS {_escape(f'{DAEMON_PROG} {name} {usage}')}", *_paragraphs(command.help or "")]
        lines += _options(inner)[1:]
    if daemon.epilog:
        lines += [".SH NOTES", *_paragraphs(daemon.epilog)]
    return [*lines, *_see_also([f"{PROG}(1)", "ip-link(8)", "veth(4)"])]


def _head(title: str, section: int, summary: str) -> list[str]:
    summary = summary[:1].lower() + summary[1:]
    return [
        f'.TH {_escape(title.upper())} {section} "" "vethd {__version__}" "vethd manual"',
        ".SH NAME",
        f"{_escape(title)} \\- {_escape(summary)}",
    ]


def _synopsis(command: str, context: click.Context) -> list[str]:
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return [".SH SYNOPSIS", f".B {_escape(command)}", _escape(pieces)]


def _description(command: click.Command) -> list[str]:
    return [".SH DESCRIPTION", *_paragraphs(command.help or "")]


def _paragraphs(text: str) -> list[str]:
    r"""Format paragraphs; a paragraph that click does not wrap (it begins with \b) keeps its lines."""
    lines: list[str] = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            lines.append(".PP")
        body = [line.strip() for line in paragraph.strip("\n ").split("\n")]
        if body[0] == "\b":
            lines += [".nf", *(_escape(line) for line in body[1:]), ".fi"]
        else:
            lines.append(_escape(" ".join(body)))
    return lines


def _options(context: click.Context) -> list[str]:
    options = [param for param in context.command.get_params(context) if isinstance(param, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    lines = [".SH OPTIONS"] if records else []
    for flags, text in records:
        lines += [".TP", f".B {_escape(flags)}", _escape(text)]
    return lines


def _commands(commands: dict[str, click.Command]) -> list[str]:
    lines: list[str] = []
    for name, command in sorted(commands.items()):
        lines += [".TP", f".BR {_escape(f'{PROG}-{name}')} (1)", _escape(command.get_short_help_str(limit=200))]
    return lines


def _exit_status() -> list[str]:
    lines = [".SH EXIT STATUS"]
    for status, meaning in EXIT_STATUS:
        lines += [".TP", f".B {status}", _escape(meaning[:1].upper() + meaning[1:]) + "."]
    return lines


def _surroundings() -> list[str]:
    return [
        ".SH ENVIRONMENT",
        ".TP",
        f".B {SOCKET_VARIABLE}",
        "The daemon's control socket, if --socket is not given.".replace("-", "\\-"),
        ".SH FILES",
        ".TP",
        f".I {_escape(DEFAULT_SOCKET)}",
        "The control socket. The socket for requests with file descriptors has the same path with .fd appended.",
    ]


def _see_also(names: list[str]) -> list[str]:
    lines = [".SH SEE ALSO"]
    for number, name in enumerate(names):
        word, section = name.removesuffix(")").split("(")
        comma = "," if number + 1 < len(names) else ""
        lines.append(f".BR {_escape(word)} ({section}){comma}")
    return lines


def _escape(text: str) -> str:
    """Escape text so that roff prints it as it is; text in backquotes becomes bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = _CODE.sub(r"\\fB\1\\fR", text).replace("`", "\\(ga")
    text = text.replace("~", "\\(ti").replace("^", "\\(ha")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the pages into the directory given on the command line, and print their paths."""
    match sys.argv[1:]:
        case [directory]:
            for path in write(Path(directory)):
                click.echo(path)
        case _:
            click.echo("usage: man.py DIR", err=True)
            sys.exit(2)


if __name__ == "__main__":
    main()
