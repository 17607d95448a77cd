"""A vethd of one's own: started, spoken to over its control socket in plain HTTP, stopped by its PID."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.lib.netns import Netns
from tests.lib.wait import wait_until

PROGRAM = (sys.executable, "-m", "vethd.daemon.main")
START_S = 60.0
STOP_S = 20.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over a unix socket."""

    def __init__(self, path: Path, timeout_s: float = 60.0) -> None:
        """Prepare a connection; the first request opens it."""
        super().__init__("vethd", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        """Connect; called by the first request."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Daemon:
    """One vethd process, its socket and log in a directory of the caller's."""

    def __init__(self, directory: Path, home: Netns, engine: str, *args: str, program: Sequence[str] = PROGRAM) -> None:
        """Start it in the namespace home and wait for its health; program is how it is called.

        Raises AssertionError with its log where it does not get well.
        """
        self.socket = directory / "vethd.sock"
        self.log = directory / "vethd.log"
        argv = [*program, "--socket", str(self.socket), "--engine", engine, *args]
        with self.log.open("wb") as log:
            # a process group of its own: Ctrl-C is for the tests, which then end it in their order
            start = partial(subprocess.Popen[bytes], stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
            self.process = home.run(start, argv)
        try:
            wait_until(self._answers, START_S, "GET /v1/health")
        except BaseException as error:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"vethd did not start: {error}\n{self.log_tail()}") from error

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return self.process.pid

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Make one request; return its status and its JSON, None where the reply has no body."""
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            data = response.read()
            return response.status, json.loads(data) if data else None
        finally:
            connection.close()

    def link_path(self, name: str, netns: str, leaf: str = "") -> str:
        """Return a link's path of the API."""
        return f"/v1/links/{quote(name, safe='')}{leaf}?netns={quote(netns, safe='')}"

    def pairs(self) -> list[Any]:
        """Return GET /v1/pairs."""
        status, body = self.request("GET", "/v1/pairs")
        assert status == 200, body
        return list(body)

    def fd_count(self) -> int:
        """Count the daemon's open descriptors."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def log_tail(self, lines: int = 40) -> str:
        """Return the log's end, for a failure's text."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Have it do nothing meanwhile: no thread of it runs, and what is sent waits in the devices."""
        states = [path / "stat" for path in Path(f"/proc/{self.pid}/task").iterdir()]
        self.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: all(_state(path) == "T" for path in states), what="the standstill of all threads")
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to go and wait. Raises AssertionError where it does not go, or not with 0, or logged a traceback."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"vethd did not stop within {STOP_S} s\n{self.log_tail()}") from None
        assert code == 0, f"vethd ended with {code}\n{self.log_tail()}"
        assert "Traceback" not in self.log.read_text(errors="replace"), self.log_tail(100)

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"it ended with {self.process.returncode}"
        try:
            return self.request("GET", "/v1/health")[0] == 200
        except (FileNotFoundError, ConnectionRefusedError):
            return False


def _state(stat: Path) -> str:
    """Return the letter of a thread's state; one that ended meanwhile does nothing either."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"
