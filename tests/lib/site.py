"""A daemon with a config, a state directory and a life of its own: reloaded, killed, started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.lib.backends import Backend, Vethd
from tests.lib.daemon import PROGRAM, Daemon, UnixConnection
from tests.lib.engines import ENGINE
from tests.lib.lab import Lab, Wire
from tests.lib.leaks import PREFIX, Traces
from tests.lib.netns import Netns
from tests.lib.sockets import ping
from tests.lib.wait import DEADLINE_S, wait_until

COMMAND_S = 60.0


class Site(Vethd):
    """A Backend whose daemon reads a config, in a directory of its own; start() and stop() as often as needed."""

    def __init__(self, home: Netns, directory: Path, engine: str = ENGINE) -> None:
        """Prepare; nothing is started."""
        Backend.__init__(self, home)
        self.engine = engine
        self.name = f"vethd-{engine}"
        self.directory = directory
        self.socket = directory / "vethd.sock"
        self.config = directory / "vethd.toml"
        self.state = directory / "state"
        self.running = False
        self.program: Sequence[str] = PROGRAM
        self.configure("")

    def configure(self, pairs: str) -> None:
        """Write the config: our state directory, then pairs."""
        self.config.write_text(f'state_dir = "{self.state}"\nlog_level = "debug"\n{pairs}')

    def start(self, *args: str) -> Daemon:
        """Start the daemon, which is then self.daemon."""
        assert not self.running
        args = ("--config", str(self.config), *args)
        self.daemon = Daemon(self.directory, self.home, self.engine, *args, program=self.program)
        self.running = True
        return self.daemon

    def reconciled(self) -> dict[str, int]:
        """Wait until the start is over, and return what it came to."""

        def over() -> dict[str, int]:
            return dict(self.daemon.request("GET", "/v1/health")[1]["reconciled"] or {})

        return wait_until(over, what="the start's end")

    def count_idle(self) -> None:
        """Note how many descriptors it has with no pair and no connection: leftovers() proves that it has no more."""
        connection = UnixConnection(self.socket)
        connection.request("GET", "/v1/health")
        connection.getresponse().read()
        busy = self.daemon.fd_count()
        connection.close()
        wait_until(lambda: self.daemon.fd_count() < busy, DEADLINE_S, "the end of the only connection")
        self.idle_fds = self.daemon.fd_count()

    def stop(self) -> None:
        """Stop it in good order: see Daemon.stop()."""
        self.running = False
        self.daemon.stop()

    def kill(self) -> None:
        """Kill it with no chance to clear away."""
        self.running = False
        self.daemon.process.kill()
        self.daemon.process.wait()

    def reload(self) -> dict[str, int]:
        """POST /v1/reload, and return its figures."""
        status, body = self.daemon.request("POST", "/v1/reload")
        assert status == 200, body
        return dict(body)

    def hang_up(self) -> None:
        """Send SIGHUP and wait until the log says that it was worked off."""
        seen = self.reloads()
        self.daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.reloads() > seen, DEADLINE_S, "the reload's line in the log")

    def reloads(self) -> int:
        """Count the reloads, refused ones too, in the log."""
        text = self.daemon.log.read_text()
        return text.count('"event": "reloaded"') + text.count('"event": "reload refused')

    def post(self, pair: Any) -> Any:
        """POST /v1/pairs and return the new pair."""
        status, body = self.daemon.request("POST", "/v1/pairs", msgspec.json.encode(pair))
        assert status == 201, body
        return body

    def pair(self, name: str) -> Any:
        """Return the pair whose spec's near end has that name. Raises AssertionError where there is none."""
        found = self._pairs(name)
        assert found, f"no pair {name} among {self.daemon.pairs()}"
        return found[0]

    def wait_state(self, name: str, state: str, deadline_s: float = DEADLINE_S) -> Any:
        """Wait until that pair is there, "alive" or "waiting", and return it."""

        def found() -> list[Any]:
            return [pair for pair in self._pairs(name) if pair["state"] == state and pair["reason"] != "not made yet"]

        pair = wait_until(found, deadline_s, f"{name} {state}")[0]
        # a pair shows itself while it is still being made; a change, and be it of nothing, waits until that is done
        if state == "alive" and self.daemon.request("PATCH", f"/v1/pairs/{pair['id']}", b"{}")[0] != 200:
            return self.wait_state(name, state, deadline_s)
        return pair

    def _pairs(self, name: str) -> list[Any]:
        return [pair for pair in self.daemon.pairs() if pair["spec"].get("name") == name]

    def run(self, *args: str, timeout_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
        """Run `vethd ARGS` in the home namespace, to its end."""
        argv = [sys.executable, "-m", "vethd.daemon.main", *args]
        return self.home.run(
            subprocess.run,
            argv,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )


Place = tuple[Site, Lab]
"""A site, and a bench for its pairs."""


@contextmanager
def site(directory: Path, engine: str = ENGINE) -> Iterator[Place]:
    """Yield a site, not started, and a bench to build on; then clear away, with proof that nothing is left.

    The daemon ends before its namespaces do, and takes its devices with it.
    """
    home = Netns.create(f"{PREFIX}home-{directory.name[-8:]}")
    before = Traces.now(home)
    it = Site(home, directory, engine)
    lab = Lab(it)
    left: set[str] = set()
    try:
        yield it, lab
    finally:
        if it.running:
            it.stop()
        for netns in lab.netnses:
            if netns.exists:
                left |= netns.names()
                netns.delete()
        try:
            before.assert_nothing_left(home)
        finally:
            home.delete()
    assert not left, f"the daemon left {left}"


def up(wire: Wire, net: str = "10.9.0") -> tuple[str, str]:
    """Wait for the carrier of a pair that was declared up, and return its ends addresses."""
    wire.wait_carrier()
    return wire.addresses(net)


def alive(wire: Wire) -> None:
    """Prove that a pair that was declared up forwards."""
    near, far = up(wire)
    ping(wire.a.netns, near, wire.b.netns, far)


class FdCall:
    """One request on the fd-passing socket, said and heard in two steps; a context manager."""

    def __init__(self, path: Path) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(60.0)
        self.sock.connect(f"{path}.fd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def say(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send one message."""
        if fds:
            socket.send_fds(self.sock, [data], list(fds))
        else:
            self.sock.send(data)

    def hear(self) -> tuple[int, Any] | None:
        """Return the reply; None where the daemon hung up without one."""
        data = self.sock.recv(1 << 20)
        if not data:
            return None
        reply = msgspec.json.decode(data)
        return reply["status"], reply["body"]


def fd_call(path: Path, method: str, target: str, body: Any = None, fds: Sequence[int] = ()) -> tuple[int, Any]:
    """Make one request on the fd-passing socket beside path."""
    request = {"method": method, "path": target} | ({} if body is None else {"body": body})
    with FdCall(path) as call:
        call.say(msgspec.json.encode(request), fds)
        reply = call.hear()
    assert reply is not None, "hung up on"
    return reply


def toml_pair(near: tuple[str, str], far: tuple[str, str], own: str = "", peer: str = "") -> str:
    """Return a [[pair]] table of two (name, netns), both ends up; own and peer are further lines of its ends."""

    def end(place: tuple[str, str], more: str) -> str:
        netns = f'netns = "{place[1]}"\n' if place[1] else ""
        return f'name = "{place[0]}"\n{netns}up = true\n{more}\n'

    return f"[[pair]]\n{end(near, own)}[pair.peer]\n{end(far, peer)}"
