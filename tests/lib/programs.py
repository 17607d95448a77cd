"""Real programs in namespaces: started, waited for by what they say, stopped by their PID."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.lib.netns import Netns
from tests.lib.wait import DEADLINE_S, wait_until

PROGRAM_S = 60.0  # nothing here runs for longer: what hangs is killed, and its test fails


class Finished(NamedTuple):
    """A program that has ended: its exit status, and what it wrote on stdout and stderr."""

    code: int
    output: str


class Program:
    """A program that runs beside the test; what it writes goes to a file, so that it never waits for us."""

    def __init__(self, netns: Netns, *argv: str, console: bool = False) -> None:
        """Start it in netns. Its stdin is empty; with console it stays open, for one that ends where its stdin does."""
        self.argv = argv
        # ours to read by its name: one offset for both would make the child write where we last read
        self._file = tempfile.NamedTemporaryFile(prefix="vethd-test-")  # noqa: SIM115 - close() closes it
        try:
            self.process = netns.run(
                subprocess.Popen,
                argv,
                stdin=subprocess.PIPE if console else subprocess.DEVNULL,
                stdout=self._file,
                stderr=subprocess.STDOUT,
            )
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let go of its files."""
        self._file.close()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def output(self) -> str:
        """Return what it has written so far."""
        return Path(self._file.name).read_text(errors="replace")

    def wait_for(self, text: str, deadline_s: float = DEADLINE_S) -> str:
        """Wait until its output holds text; return the output. Raises AssertionError, also where it ended before."""

        def said() -> str:
            ended = self.process.poll() is not None
            output = self.output()
            assert text in output or not ended, f"{self.argv} ended without {text!r}: {output}"
            return output if text in output else ""

        return wait_until(said, deadline_s, f"{text!r} from {self.argv}")

    def wait(self, deadline_s: float = PROGRAM_S) -> Finished:
        """Wait for its own end. Raises AssertionError where that does not come; then it is killed."""
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.argv} did not end: {self.output()}") from None
        return Finished(code, self.output())

    def end(self, number: int = signal.SIGTERM, deadline_s: float = DEADLINE_S) -> Finished:
        """Send it a signal and wait for its end."""
        self.process.send_signal(number)
        return self.wait(deadline_s)


@contextlib.contextmanager
def running(
    netns: Netns, *argv: str, ready: str = "", console: bool = False, end_s: float = DEADLINE_S
) -> Iterator[Program]:
    """Run a program in netns while the body runs, from the moment when it has said ready; it then has end_s to end."""
    program = Program(netns, *argv, console=console)
    try:
        if ready:
            program.wait_for(ready)
        yield program
    finally:
        try:
            if program.process.poll() is None:
                program.end(deadline_s=end_s)
        finally:
            program.close()


def finish(netns: Netns, *argv: str, deadline_s: float = PROGRAM_S) -> Finished:
    """Run a program in netns to its end, whatever its exit status."""
    with running(netns, *argv) as program:
        return program.wait(deadline_s)


class Pings(NamedTuple):
    """The last lines of ping. rtt_ms is the average, NaN where no answer came or was timed."""

    sent: int
    received: int
    loss_percent: float
    duplicates: int
    rtt_ms: float


def ping(netns: Netns, *args: str) -> Pings:
    """Run ping to its end and return its statistics. Raises AssertionError where it has none."""
    done = finish(netns, "ping", "-n", "-q", *args)
    found = re.search(
        r"(\d+) packets transmitted, (\d+) received, (?:\+(\d+) duplicates, )?(?:\+\d+ errors, )?([\d.]+)% packet loss",
        done.output,
    )
    assert found, f"ping {args}: {done}"
    sent, received, duplicates, loss = found.groups()
    rtt = re.search(r"rtt [^=]*= [\d.]+/([\d.]+)/", done.output)
    return Pings(int(sent), int(received), float(loss), int(duplicates or 0), float(rtt[1]) if rtt else float("nan"))


def echoes(netns: Netns, count: int, *args: str) -> int:
    """Send so many echoes, by a ping each; return how many were answered.

    A ping waits long for its only answer. Of several it waits for the last no longer than the interval, or twice as
    long as any other took: too short on a crowded machine.
    """
    return sum(ping(netns, "-c", "1", "-W", f"{DEADLINE_S:g}", *args).received for _ in range(count))


_LISTENING = "Server listening"


class Iperf3:
    """An iperf3 server in one namespace, and clients of it in another."""

    def __init__(self, server: Program, address: str) -> None:
        """Refer to a server that serving() started."""
        self.server = server
        self.address = address
        self._served = 0

    @classmethod
    @contextlib.contextmanager
    def serving(cls, server: Netns, address: str) -> Iterator[Iperf3]:
        """Serve at address while the body runs, one test after the other."""
        argv = ("iperf3", "-s", "-B", address, "--forceflush")
        with running(server, *argv, ready=_LISTENING) as program:
            yield cls(program, address)

    def run(self, client: Netns, *args: str, deadline_s: float = PROGRAM_S) -> Any:
        """Run one test and give iperf3's JSON; its "error", if there is one, is the caller's to look at."""
        # after each it closes its socket, and opens another
        wait_until(lambda: self.server.output().count(_LISTENING) > self._served, what="the server's readiness")
        done = finish(client, "iperf3", "-c", self.address, "-J", *args, deadline_s=deadline_s)
        _, brace, rest = done.output.partition("{")  # warnings come before the JSON
        assert brace, f"iperf3 {args}: {done}"
        report = json.loads(brace + rest)
        self._served += "error" not in report
        return report

    def measure(self, client: Netns, *args: str, deadline_s: float = PROGRAM_S) -> Any:
        """Run one test and return its "end". Raises AssertionError with iperf3's own words where it failed."""
        report = self.run(client, *args, deadline_s=deadline_s)
        assert "error" not in report, report["error"]
        return report["end"]
