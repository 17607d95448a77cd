"""Shows a pair at work: two joined namespaces, traffic between them, a link that goes down, and the counters.

    .venv/bin/python tools/demo.py [--seconds N]        (make demo; unshare -Urn make demo)

Theory of operation. The two namespaces have no name: they exist while a file descriptor on them is open, here and in
the daemon, which is started with them as its descriptors 3 and 4 (configs/demo.toml: "fd:3", "fd:4"). So the demo does
not need /run/netns, and root of a user namespace can run it. An ExitStack undoes every step, newest first. The signals
that end a program raise an exception, once, so that the ExitStack runs in that case, too.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeVar

from vethd.control import Client, DaemonDown
from vethd.kernel import netns
from vethd.kernel.tundev import obstacle
from vethd.model.errors import VethError

REPO = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CONFIG = REPO / "configs" / "demo.toml"
FIRST_FD = 3  # where demo.toml expects the two namespaces
FREE_FD = 10  # well above them
DEADLINE_S = 20.0  # for each step; all steps together take five seconds
STOP_S = 10.0
POLL_S = 0.01
CHUNK_BYTES = 1 << 20
PORT = 5201
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

T = TypeVar("T")


class DemoError(Exception):
    """An error that ends the demo with one sentence."""


class Ended(BaseException):
    """A signal ended the demo. Like KeyboardInterrupt, it is no Exception, so that no code catches it by mistake."""

    def __init__(self, number: int) -> None:
        """Store the signal's number."""
        self.number = number
        super().__init__(number)


class End(NamedTuple):
    """One end of the demo's pair; fd is open on its namespace."""

    name: str
    address: str
    fd: int

    def start(self, *argv: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        """Run a program in the end's namespace while a with statement lasts."""

        def begin() -> subprocess.Popen[str]:
            return subprocess.Popen(
                ["nsenter", f"--net=/proc/self/fd/{self.fd}", *argv],
                pass_fds=(self.fd,),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        return _living(begin, _end_child)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the end's namespace and wait until it ends."""
        with self.start(*argv) as child:
            out, err = child.communicate(timeout=DEADLINE_S)
        return subprocess.CompletedProcess(argv, child.returncode, out, err)

    def ip(self, *args: str) -> None:
        """Run ip in the end's namespace. Raises DemoError with ip's error message if it fails."""
        done = self.run("ip", *args)
        if done.returncode != 0:
            raise DemoError(f"ip {' '.join(args)}: {done.stderr.strip()}")


class Daemon(NamedTuple):
    """The running vethd and a client for it; pidfd becomes readable when vethd ends."""

    client: Client
    socket: str
    pid: int
    pidfd: int

    def wait_until(self, condition: Callable[[], T], what: str) -> T:
        """Call condition until it is true. Raises DemoError after DEADLINE_S, or at once if the daemon ends."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            with contextlib.suppress(DaemonDown):  # it does not listen yet
                value = condition()
                if value:
                    return value
            if poller.poll(POLL_S * 1000):
                raise DemoError("vethd ended: see its message above")
        raise DemoError(f"timed out after {DEADLINE_S:g} s while waiting for: {what}")

    def wait_carrier(self, *, on: bool) -> None:
        """Wait until the carriers of both ends are on, or off."""
        self.wait_until(
            lambda: [link.carrier for link in self.client.links()] == [on, on], f"carrier {'on' if on else 'off'}"
        )


class Ping(NamedTuple):
    """The counts that ping printed, and the average time of an answer."""

    counts: str
    average_ms: str


def main() -> int:
    """Run the demo. Exit status: 0, 1 with a sentence on stderr, or 128 + the number of the signal that ended it."""
    parser = argparse.ArgumentParser(prog="demo", description="Run a vethd pair between two anonymous namespaces.")
    parser.add_argument("--seconds", type=int, default=2, help="how long the TCP transfer takes (default 2)")
    seconds = max(1, parser.parse_args().seconds)
    for number in ENDING:
        signal.signal(number, _ended)
    try:
        with contextlib.ExitStack() as stack:
            _run(stack, seconds)
    except (DemoError, VethError, DaemonDown, subprocess.TimeoutExpired) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except Ended as ended:
        print(f"\ndemo: {signal.Signals(ended.number).name}: everything that it made was removed", file=sys.stderr)
        return 128 + ended.number
    _say("removed", "daemon, devices and namespaces")
    return 0


def _run(stack: contextlib.ExitStack, seconds: int) -> None:
    _check_machine()
    red = End("va", "192.0.2.1", _new_netns(stack))
    blue = End("vb", "192.0.2.2", _new_netns(stack))
    daemon = stack.enter_context(_daemon(red, blue))
    for end in (red, blue):
        end.ip("link", "set", "lo", "up")
        end.ip("address", "add", f"{end.address}/24", "dev", end.name)
    daemon.wait_carrier(on=True)
    version = daemon.client.health()
    _say("vethd", f"{version.version}, engine {version.engine}, PID {version.pid}, rootless {_yes(_rootless())}")
    _say("pair", f"va ({red.address}) in net:[{_inode(red)}], vb ({blue.address}) in net:[{_inode(blue)}], carrier on")

    _ping(red, blue, count=1)  # this one's time includes ARP
    ping = _ping(red, blue, count=5)
    _say("ping", f"{ping.counts}, {ping.average_ms} ms on average")
    _say("TCP", _iperf3(red, blue, seconds) if shutil.which("iperf3") else _python_tcp(red, blue, seconds))

    blue.ip("link", "set", "vb", "down")
    daemon.wait_carrier(on=False)
    _say("vb down", f"va: {daemon.wait_until(lambda: _state(red, carrier=False), 'va without carrier')}")
    _say("ping", _ping(red, blue, count=3, lost=True).counts)
    blue.ip("link", "set", "vb", "up")
    daemon.wait_carrier(on=True)
    _say("vb up", f"va: {daemon.wait_until(lambda: _state(red, carrier=True), 'va with carrier')}")
    # ARP tried while vb was down, gives up after three seconds and drops the waiting packets (as on veth): start again
    red.ip("neighbour", "flush", "dev", "va")
    _say("ping", _ping(red, blue, count=3).counts)

    print(flush=True)
    stats = [str(BIN / "vethctl"), "--socket", daemon.socket, "stats"]
    with _living(lambda: subprocess.Popen(stats, text=True), _end_child) as child:
        if child.wait(DEADLINE_S) != 0:
            raise DemoError("vethctl stats failed: see its message above")
    print(flush=True)


def _check_machine() -> None:
    """Raise DemoError if this machine lacks something that the demo needs."""
    found = obstacle()
    if found:
        raise DemoError(str(found))
    for program in ("ip", "ping", "nsenter"):
        if shutil.which(program) is None:
            raise DemoError(f"{program} is missing: install iproute2, iputils-ping and util-linux")


def _new_netns(stack: contextlib.ExitStack) -> int:
    """Make an anonymous namespace and return its fd, which the stack closes. The last close deletes the namespace."""
    try:
        fd = netns.new_anonymous()
    except VethError as error:
        if error.errno == errno.EPERM:
            raise DemoError("no permission to create namespaces: run as root, or `unshare -Urn make demo`") from error
        raise
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FREE_FD)
    os.close(fd)
    stack.callback(os.close, high)
    return high


@contextlib.contextmanager
def _daemon(red: End, blue: End) -> Iterator[Daemon]:
    """Run vethd with demo.toml, in a process group of its own: Ctrl-C signals only the demo, which then ends vethd."""
    actions = [(os.POSIX_SPAWN_DUP2, end.fd, FIRST_FD + index) for index, end in enumerate((red, blue))]

    def spawn(directory: str) -> Daemon:
        path = f"{directory}/vethd.sock"
        argv = [str(BIN / "vethd"), "--config", str(CONFIG), "--socket", path]
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setpgroup=0, setsigmask=())
        return Daemon(Client(path, DEADLINE_S), path, pid, os.pidfd_open(pid))

    with (
        _living(lambda: tempfile.mkdtemp(prefix="vethd-demo."), shutil.rmtree) as directory,
        _living(lambda: spawn(directory), _end_daemon) as daemon,
    ):
        daemon.wait_until(lambda: len(daemon.client.links()) == len(actions), "the pair")
        yield daemon


def _end_daemon(daemon: Daemon) -> None:
    """Terminate the daemon, and make sure that it has ended."""
    poller = select.poll()
    poller.register(daemon.pidfd, select.POLLIN)
    signal.pidfd_send_signal(daemon.pidfd, signal.SIGTERM)
    if not poller.poll(STOP_S * 1000):
        signal.pidfd_send_signal(daemon.pidfd, signal.SIGKILL)
    os.waitpid(daemon.pid, 0)
    os.close(daemon.pidfd)


def _end_child(child: subprocess.Popen[str]) -> None:
    child.kill()  # no effect if it has ended and was waited for
    child.communicate()


def _ping(source: End, target: End, count: int, *, lost: bool = False) -> Ping:
    # -A -w: each ping after the last answer, until count answers: otherwise ping hardly waits for the last answer
    pace = ("-i", "0.2", "-W", "1") if lost else ("-A", "-w", "10")
    done = source.run("ping", "-n", "-q", "-c", str(count), *pace, target.address)
    summary = [line for line in done.stdout.splitlines() if " transmitted, " in line]
    if not summary or (done.returncode != 0) != lost:
        raise DemoError(f"ping {target.address}: {(done.stderr or done.stdout).strip()}")
    times = "" if lost else done.stdout.rpartition(" = ")[2].split("/")[1]
    return Ping(summary[0].rpartition(", ")[0], times)


def _iperf3(source: End, target: End, seconds: int) -> str:
    with target.start("iperf3", "--server", "--one-off", "--forceflush", "--port", str(PORT)) as server:
        assert server.stdout is not None  # noqa: S101 - start() says PIPE
        if not any(line.startswith("Server listening") for line in server.stdout):
            raise DemoError(f"iperf3: {server.communicate()[1].strip()}")
        done = source.run("iperf3", "--client", target.address, "--port", str(PORT), "--time", str(seconds), "--json")
    report = json.loads(done.stdout or "{}")
    if done.returncode != 0 or "error" in report:
        raise DemoError(f"iperf3: {report.get('error', done.stderr.strip())}")
    received = report["end"]["sum_received"]
    return _rate("iperf3", received["bytes"], received["seconds"])


def _python_tcp(source: End, target: End, seconds: int) -> str:
    """Do the same as iperf3 with two sockets, each made by a thread that has entered its namespace."""
    with netns.inside(target.fd):
        listener = socket.create_server((target.address, PORT))
    with netns.inside(source.fd):
        sender = socket.create_connection((target.address, PORT), DEADLINE_S)
    receiver, _address = listener.accept()
    received: list[int] = []

    def receive() -> None:
        buffer = bytearray(CHUNK_BYTES)
        while length := receiver.recv_into(buffer):
            received.append(length)

    with listener, sender, receiver:
        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        chunk, start = bytes(CHUNK_BYTES), time.monotonic()
        while time.monotonic() < start + seconds:
            sender.sendall(chunk)
        sender.shutdown(socket.SHUT_WR)
        thread.join(DEADLINE_S)
        return _rate("two sockets (iperf3 is not installed)", sum(received), time.monotonic() - start)


def _rate(what: str, len_bytes: float, seconds: float) -> str:
    return f"{what}: {len_bytes / 1e6:.0f} MB in {seconds:.1f} s, {len_bytes * 8 / seconds / 1e9:.2f} Gbit/s"


def _state(end: End, *, carrier: bool) -> str:
    """Return the link's state as ip shows it (<NO-CARRIER,BROADCAST,...> state DOWN); "" until it has this carrier.

    The daemon reports a carrier a moment before the kernel shows it, because a worker thread of the daemon sets it.
    """
    words = end.run("ip", "-oneline", "link", "show", "dev", end.name).stdout.split()
    if "state" not in words or ("NO-CARRIER" in words[2]) == carrier:
        return ""
    state = words[words.index("state") + 1]
    return f"{words[2]} state {state}" if state == ("UP" if carrier else "DOWN") else ""


def _inode(end: End) -> int:
    return os.fstat(end.fd).st_ino


def _rootless() -> bool:
    """Return whether this is a user namespace: there, not all uids are mapped."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", str((1 << 32) - 1)]


def _yes(value: bool) -> str:  # noqa: FBT001 - it is the value itself
    return "yes" if value else "no"


def _say(what: str, text: str) -> None:
    print(f"{what:8} {text}", flush=True)


def _ended(number: int, _frame: FrameType | None) -> None:
    """Raise Ended, once: a cleanup follows, and another Ctrl-C must not disturb it."""
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise Ended(number)


@contextlib.contextmanager
def _living(begin: Callable[[], T], end: Callable[[T], None]) -> Iterator[T]:
    """Begin something, and end it again whatever happens in between.

    The ending signals are blocked during begin and end, so no signal arrives between begin() and the try statement, or
    during end(). A signal that arrived earlier raises Ended when signals are blocked or unblocked; end() still runs.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    thing = begin()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        yield thing
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        finally:
            end(thing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


if __name__ == "__main__":
    sys.exit(main())
