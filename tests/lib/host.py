"""A host of its own for a container engine: namespaces that a process holds, and a vethd in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lib.daemon import UnixConnection
from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns
from tests.lib.wait import wait_until

SOCKET = "/run/vethd/vethd.sock"
PATIENCE_S = 600.0
_STARTED = '"event": "started"'
_READY = """
ip link set lo up
echo ready
exec cat
"""


def _children(pid: int) -> list[int]:
    """Return the PIDs of a process's children; none where it is gone or a zombie."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class Host:
    """A network namespace, a mount namespace and, if asked for, a PID namespace with which all processes end."""

    def __init__(self, directory: Path, name: str, mounts: str, *args: str, pids: bool = False) -> None:
        """Set it up; mounts is a script that prepares the mount namespace, args are vethd's. close() ends it."""
        self.directory = directory
        self.args = args
        self.netns = Netns.create(f"{PREFIX}{name}", ipv6=True)
        self._own_pids = pids
        more = ("--pid", "--fork", "--kill-child", "--mount-proc") if pids else ()
        argv = ["unshare", "--mount", *more, "sh", "-ec", f"mount --make-rprivate /\n{mounts}{_READY}"]
        self.holder = self.netns.run(subprocess.Popen, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "ready\n"
        self.inside = _children(self.holder.pid)[0] if pids else self.holder.pid
        self._enter = ["nsenter", f"--target={self.inside}", "--mount", "--net", *(("--pid",) if pids else ())]
        try:
            self.daemon = self.vethd()
        except BaseException:
            self._let_go()
            raise

    def close(self) -> None:
        """End the daemon, let the namespaces go."""
        self.end(self.daemon)
        self._let_go()

    def _let_go(self) -> None:
        self.holder.communicate()
        self.netns.delete()

    def vethd(self, *args: str) -> subprocess.Popen[bytes]:
        """Start a daemon, with args after those of the host, and wait for its log to say so; the caller keeps it."""
        before = self.log("vethd").count(_STARTED) if (self.directory / "vethd.log").exists() else 0
        words = (sys.executable, "-m", "vethd.daemon.main", "--socket", SOCKET)
        process = self.spawn("vethd", *words, *self.args, *args)

        def started() -> bool:
            assert process.poll() is None, self.log("vethd")
            return self.log("vethd").count(_STARTED) > before

        wait_until(started, what="vethd")
        return process

    def end(self, process: subprocess.Popen[bytes], signum: int = signal.SIGTERM) -> None:
        """Send a signal to a program that spawn() started, if it runs, and wait for its end."""
        for pid in _children(process.pid) if self._own_pids else [process.pid]:
            os.kill(pid, signum)
        process.wait()

    def spawn(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program on this host, and have its output appended to the log of this name."""
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen([*self._enter, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self, name: str) -> str:
        """Return the log of a name."""
        return (self.directory / f"{name}.log").read_text()

    def command(self, *argv: str, check: bool = True, stdin: bytes = b"") -> str:
        """Run a program on this host and return its output. Raises AssertionError where it fails."""
        done = self.ran(*argv, stdin=stdin)
        assert not check or done.returncode == 0, f"{argv}: {done.stderr.decode()}\n{self.log('vethd')}"
        return done.stdout.decode()

    def ran(self, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a program on this host and return how it ended."""
        argv = (*self._enter, *argv)
        return subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=PATIENCE_S)

    def get(self, path: str) -> Any:
        """GET by the daemon's socket."""
        connection = UnixConnection(self.path(SOCKET))
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def path(self, path: str) -> Path:
        """Return where a path of that host is to be seen from here."""
        return Path(f"/proc/{self.inside}/root{path}")
