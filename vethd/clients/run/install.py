"""`vethd-run --install NAME`: put vethd-run in front of a service, by a drop-in for its unit or by a wrapper.

Every file says that it is ours; `--uninstall` removes files that say so, and no others.
"""

from __future__ import annotations

import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from vethd.clients.process import say
from vethd.clients.single import InstallError, put

UNITS = {
    "docker": ("docker.service",),
    "lxc": ("lxc.service", "lxc@.service"),
    "nspawn": ("systemd-nspawn@.service",),
    "networkd": ("systemd-networkd.service",),
}
# What a unit's own restrictions would refuse to vethd-run, and what the daemon asks of a user that is not root.
NEEDS = {
    "networkd": (
        "SystemCallFilter=seccomp pidfd_getfd process_vm_readv process_vm_writev",
        "SupplementaryGroups=vethd",
    ),
}
NAMES = (*UNITS, "podman")
MARK = "# Made by `vethd-run --install {0}`; `vethd-run --uninstall {0}` removes it."

_UNIT_PATH = ("etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_HELPERS = ("usr/local/libexec/podman", "usr/local/lib/podman", "usr/libexec/podman", "usr/lib/podman")
_WRAPPERS = "usr/local/lib/vethd/podman"
_CONTAINERS_CONF = "etc/containers/containers.conf"
_PREFIXES = "-:+!"  # of ExecStart=; "@" takes the next word for argv[0], which vethd-run cannot pass on
_USAGE = f"vethd-run [--dry-run] --install|--uninstall {'|'.join(NAMES)}"


class File(NamedTuple):
    """A file to write."""

    path: Path
    text: str
    mode: int = 0o644


def main(args: list[str]) -> int:
    """Carry out a command line and return its status."""
    dry = "--dry-run" in args
    words = [word for word in args if word != "--dry-run"]
    if len(words) != 2 or words[0] not in ("--install", "--uninstall") or words[1] not in NAMES:
        say(f"Usage: {_USAGE}\n")
        return 2
    action, name = words
    try:
        if action == "--install":
            _install(name, dry=dry)
        else:
            _uninstall(name, dry=dry)
    except (InstallError, OSError) as error:
        say(f"vethd-run: {error}\n")
        return 1
    return 0


def files(name: str, program: str, root: Path = Path("/")) -> list[File]:
    """Return the files that put program in front of a service. Raises InstallError."""
    return _for_podman(program, root) if name == "podman" else _for_units(name, program, root)


def places(name: str, root: Path = Path("/")) -> list[Path]:
    """Return where the files of a service are."""
    if name == "podman":
        return [root / _WRAPPERS / "netavark", root / f"{_CONTAINERS_CONF}.d" / "vethd.conf"]
    return [_drop_in(unit, root) for unit in UNITS[name]]


def is_ours(path: Path, name: str) -> bool:
    """Return whether a file says that it is ours."""
    return MARK.format(name) in path.read_text(encoding="utf-8").splitlines()[:2]


def commands_of(unit: str) -> list[str]:
    """Return the ExecStart= commands of a unit's text; an empty assignment discards those before it."""
    found: list[str] = []
    for line in unit.replace("\\\n", " ").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "ExecStart":
            found = [*found, value.strip()] if value.strip() else []
    return found


def behind(command: str, program: str) -> str:
    """Return a command with program in front. Raises InstallError."""
    bare = command.lstrip(_PREFIXES)
    if bare.startswith("@"):
        raise InstallError(f"cannot stand in front of a command that begins with @: {command}")
    return f"{command[: len(command) - len(bare)]}{program} {bare}"


def _for_units(name: str, program: str, root: Path) -> list[File]:
    made = []
    for unit in UNITS[name]:
        paths = (root / directory / unit for directory in _UNIT_PATH)
        source = next((path for path in paths if path.is_file()), None)
        commands = commands_of(source.read_text(encoding="utf-8")) if source is not None else []
        if not commands:
            continue
        head = [MARK.format(name), "[Unit]", "Wants=vethd.service", "After=vethd.service", "", "[Service]"]
        lines = [
            *head,
            *NEEDS.get(name, ()),
            "ExecStart=",
            *(f"ExecStart={behind(command, program)}" for command in commands),
        ]
        made.append(File(_drop_in(unit, root), "\n".join(lines) + "\n"))
    if not made:
        raise InstallError(f"no unit {' or '.join(UNITS[name])} with an ExecStart=: is {name} installed?")
    return made


def _for_podman(program: str, root: Path) -> list[File]:
    conf = root / _CONTAINERS_CONF
    told = tomllib.loads(conf.read_text(encoding="utf-8")) if conf.is_file() else {}
    own = told.get("engine", {}).get("helper_binaries_dir") or [f"/{directory}" for directory in _HELPERS]
    real = next((path for one in own if (path := root / one.lstrip("/") / "netavark").is_file()), None)
    if real is None:
        raise InstallError(f"no netavark in {', '.join(own)}: podman's network backend is another one")
    wrapper, drop_in = places("podman", root)
    netavark = f"/{real.relative_to(root)}"
    script = f'#!/bin/sh\n{MARK.format("podman")}\nexec {shlex.quote(program)} {shlex.quote(netavark)} "$@"\n'
    directories = ", ".join(f'"{one}"' for one in (f"/{_WRAPPERS}", *own))
    setting = f"{MARK.format('podman')}\n[engine]\nhelper_binaries_dir = [{directories}]\n"
    return [File(wrapper, script, 0o755), File(drop_in, setting)]


def _drop_in(unit: str, root: Path) -> Path:
    return root / "etc" / "systemd" / "system" / f"{unit}.d" / "vethd.conf"


def _install(name: str, *, dry: bool) -> None:
    made = files(name, os.path.abspath(sys.argv[0]))  # noqa: PTH100 - a link stays a link
    for file in made:
        if file.path.exists() and not is_ours(file.path, name):
            raise InstallError(f"{file.path} is not ours")
    for file in made:
        sys.stdout.write(f"{file.path}:\n{file.text}\n" if dry else f"{file.path}\n")
        if not dry:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            put(file.path, file.text.encode, file.mode)
    if not dry and name in UNITS:
        sys.stdout.write("now: systemctl daemon-reload, and restart the service\n")


def _uninstall(name: str, *, dry: bool) -> None:
    for path in places(name):
        if not path.exists():
            continue
        if not is_ours(path, name):
            raise InstallError(f"{path} is not ours")
        sys.stdout.write(f"{path}\n")
        if not dry:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
