"""Programs under vethd-run, beside a daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.lib.netns import Netns
from tests.lib.site import Site
from tests.lib.wait import wait_until

RUN_S = 100.0


class Door:
    """Starts programs under vethd-run, and knows its supervisors."""

    def __init__(self, site: Site, directory: Path) -> None:
        """Refer to a daemon; what was not as usual is logged into the directory."""
        self.site = site
        self.log = directory / "run.log"

    @property
    def prefix(self) -> list[str]:
        """The words in front of a program's."""
        return [sys.executable, "-m", "vethd.clients.run.launch", "--log", str(self.log)]

    @property
    def env(self) -> dict[str, str]:
        """The environment that names the daemon."""
        return os.environ | {"VETHD_SOCKET": str(self.site.socket)}

    def start(self, netns: Netns, *argv: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start a program in a namespace; before are words in front of vethd-run's."""
        return netns.run(
            subprocess.Popen[str],
            [*before, *self.prefix, *argv],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, netns: Netns, *argv: str, before: tuple[str, ...] = (), timeout_s: float = RUN_S) -> tuple[int, str]:
        """Run a program to its end; return its status and what it said."""
        program = self.start(netns, *argv, before=before)
        try:
            said, _ = program.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            program.kill()
            said, _ = program.communicate()
            raise AssertionError(f"{argv}: not within {timeout_s} s\n{said}\n{self.told()}") from None
        return program.returncode, said

    def output(self, netns: Netns, *argv: str) -> str:
        """Run a program to its end, and return what it said. Raises AssertionError where it fails."""
        status, said = self.run(netns, *argv)
        assert status == 0, f"{argv}: {status}\n{said}\n{self.told()}"
        return said

    def told(self) -> str:
        """Return the log."""
        return self.log.read_text() if self.log.exists() else ""

    def supervisors(self) -> list[int]:
        """Return the PIDs of the keepers and workers that log into our directory."""
        found = []
        for comm in Path("/proc").glob("[0-9]*/comm"):
            try:
                ours = comm.read_text() == "vethd-run\n" and str(self.log) in comm.with_name("cmdline").read_text()
            except OSError:
                continue
            if ours:
                found.append(int(comm.parent.name))
        return sorted(found)

    def wait_over(self) -> None:
        """Wait until no supervisor of ours is left."""
        wait_until(lambda: not self.supervisors(), what="the end of the supervisors")
