"""Two programs called ip, the real one on the kernel's veth and vethd-ip, and what each makes of a command line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.lib.netns import Netns
from tests.lib.wait import DEADLINE_S, wait_until

RUN_S = 60.0
_KEPT = (
    "ifname",
    "link",
    "master",
    "mtu",
    "linkmode",
    "operstate",
    "group",
    "txqlen",
    "broadcast",
    "promiscuity",
    "allmulti",
    "gso_max_size",
    "gso_max_segs",
    "gro_max_size",
)
_SAID = "02:00:00:00:00:"  # how an address that was asked for begins; others are random


@dataclass
class Done:
    """What a program ended with."""

    status: int
    out: str
    err: str


@dataclass
class Caller:
    """Runs vethd-ip or another program in a namespace, with vethd-ip first on PATH."""

    ip: Path
    socket: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of whoever has vethd-ip installed."""
        return os.environ | {"VETHD_SOCKET": str(self.socket), "PATH": f"{self.ip.parent}:{os.environ['PATH']}"}

    def run(self, netns: Netns, *argv: str, env: dict[str, str] | None = None, stdin: str = "") -> Done:
        """Run a program to its end."""
        done = netns.run(
            subprocess.run,
            argv,
            env=self.env if env is None else env,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_S,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def __call__(self, netns: Netns, line: str) -> Done:
        """Run a command line of vethd-ip."""
        return self.run(netns, str(self.ip), *line.split())


class Step(NamedTuple):
    """What one command line ended with, namespaces' names written as {a} and {b} again."""

    status: int
    out: str
    err: str


@dataclass
class Ip:
    """A program called ip, with two namespaces of its own to work in, and a process in the second."""

    program: Path
    a: Netns
    b: Netns
    pid: int
    env: dict[str, str] = field(default_factory=dict)

    def line(self, text: str) -> list[Step]:
        """Run the steps of a line of the corpus, in a."""
        return [self.step(step) for step in text.split(" ;; ")]

    def step(self, text: str) -> Step:
        """Run one command line in a; what follows "<<<" is its stdin."""
        words, _, stdin = self._named(text).partition("<<<")
        done = self.run(*shlex.split(words), stdin=stdin.strip(" ").replace("\\n", "\n"))
        out, err = (self._unnamed(text) for text in (done.stdout, done.stderr))
        return Step(done.returncode, out, err)

    def run(self, *args: str, netns: Netns | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run it with args in a, or netns, to its end."""
        return (netns or self.a).run(
            subprocess.run,
            [str(self.program), *args],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_S,
            env=os.environ | self.env,
        )

    def links(self, *options: str) -> list[list[dict[str, Any]]]:
        """Return what it shows of the links of both namespaces, but for lo, as JSON."""
        shown = []
        for netns in (self.a, self.b):
            done = self.run("-details", "-json", *options, "link", "show", netns=netns)
            assert done.returncode == 0, done.stderr
            shown.append([row for row in json.loads(done.stdout) if row["ifname"] != "lo"])
        return shown

    def made(self, line: str) -> list[list[dict[str, Any]]]:
        """Return the links of both namespaces, by name, and of each what both programs can be asked to agree on.

        That is the ifindex where line says it, and the address where it is one that was asked for.
        """
        return [sorted((_kept(row, line) for row in rows), key=lambda row: row["ifname"]) for rows in self.links()]

    def clear(self) -> None:
        """Delete all links of both namespaces, by the real ip."""
        for netns in (self.a, self.b):
            for name in sorted(netns.names()):
                netns.run(subprocess.run, ["ip", "link", "delete", name], capture_output=True, check=False)
            wait_until(lambda netns=netns: not netns.names(), DEADLINE_S, f"{netns.name} empty")  # type: ignore[misc]

    def _named(self, text: str) -> str:
        names = {"{a}": self.a.name, "{b}": self.b.name, "{pid}": str(self.pid), "{path}": f"/proc/{self.pid}/ns/net"}
        for placeholder, name in names.items():
            text = text.replace(placeholder, name)
        return text

    def _unnamed(self, text: str) -> str:
        return text.replace(self.a.name, "{a}").replace(self.b.name, "{b}").replace(str(self.pid), "{pid}")


def _kept(row: dict[str, Any], line: str) -> dict[str, Any]:
    kept = {key: row[key] for key in _KEPT if key in row}
    kept["flags"] = sorted(set(row["flags"]) - {"M-DOWN", "NO-CARRIER", "LOWER_UP"})
    if kept["operstate"] == "LOWERLAYERDOWN":  # docs/differences.md
        kept["operstate"] = "DOWN"
    kept["kind"] = row["linkinfo"]["info_kind"]
    kept["elsewhere"] = "link_index" in row and "link_netnsid" in row
    if f"index {row['ifindex']}" in line:
        kept["ifindex"] = row["ifindex"]
    if row["address"].startswith(_SAID):
        kept["address"] = row["address"]
    return kept
