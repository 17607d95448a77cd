"""What runs across a pair while its daemon is restarted: numbered datagrams, a TCP stream, a ping.

red [va 10.6.0.1] ---- vethd ---- [vb 10.6.0.2] blue

All of it runs in a box and ends when it is told to; what it then prints is read here.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from typing import NamedTuple

from tests.lib.systemd_box import SystemdBox
from tests.lib.wait import wait_until

END_S = 60.0
LATE_S = 3.0  # after the last of all, for those that it has overtaken

# So many datagrams in all, every 2 ms those that are due, until SIGTERM, and one that says so; then how many were sent.
_UDP_SENDER = """
import signal, socket, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
rate, length = int(sys.argv[1]), int(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("10.6.0.2", 7))
rest = bytes(length - 8)
n, begin = 0, time.monotonic()
print("ready", flush=True)
while not stop:
    time.sleep(0.002 if rate > 500 else 1 / rate)
    while n < (time.monotonic() - begin) * rate:
        s.send(n.to_bytes(8, "big") + rest)
        n += 1
s.send(b"the end.")
print(n)
"""
# Counts what comes, in order, until the end, or until nothing has come for long: expected, missing, late, longest gap
# in us.
_UDP_RECEIVER = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
s.bind(("10.6.0.2", 7))
print("ready", flush=True)
expected = missing = late = 0
gap = last = 0.0
s.settimeout(20)
while True:
    try:
        data = s.recv(2048)[:8]
    except TimeoutError:
        break
    if data == b"the end.":
        s.settimeout(float(sys.argv[1]))
        continue
    number = int.from_bytes(data, "big")
    now = time.monotonic()
    gap, last = max(gap, now - (last or now)), now
    missing += max(number - expected, 0)
    late += number < expected
    expected = max(number + 1, expected)
print(expected, missing, late, round(gap * 1e6))
"""
_TCP_RECEIVER = """
import hashlib, socket
listener = socket.create_server(("10.6.0.2", 8))
print("ready", flush=True)
s, _ = listener.accept()
digest, length = hashlib.sha256(), 0
while data := s.recv(1 << 16):
    digest.update(data)
    length += len(data)
print(digest.hexdigest(), length)
"""
# 64 KB of noise every 20 ms, until SIGTERM.
_TCP_SENDER = """
import hashlib, os, signal, socket, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
s = socket.create_connection(("10.6.0.2", 8))
digest, length = hashlib.sha256(), 0
print("ready", flush=True)
while not stop:
    data = os.urandom(1 << 16)
    s.sendall(data)
    digest.update(data)
    length += len(data)
    time.sleep(0.02)
s.shutdown(socket.SHUT_WR)
print(digest.hexdigest(), length)
"""


class Seen(NamedTuple):
    """What came of numbered datagrams. missing are those that never came, late those behind a later one."""

    sent: int
    missing: int
    late: int
    gap_ms: float


class _Program:
    """A program of the box that runs until it is told to end."""

    def __init__(self, box: SystemdBox, netns: str, *argv: str, ready: bool = True) -> None:
        self._argv = argv
        self._child = box.popen(["ip", "netns", "exec", netns, *argv])
        if ready:
            assert self._child.stdout is not None
            line = self._child.stdout.readline()
            assert line == "ready\n", self._child.communicate()

    def tell(self, number: int = signal.SIGTERM) -> None:
        os.killpg(self._child.pid, number)

    def printed(self) -> str:
        try:
            out, err = self._child.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            raise AssertionError(f"{self._argv[-1]}: not within {END_S} s") from None
        assert "Traceback" not in err, err
        return out


class Datagrams:
    """Numbered datagrams of len_bytes from red to blue, rate a second, until end()."""

    def __init__(self, box: SystemdBox, rate: int, len_bytes: int = 64) -> None:
        self._receiver = _Program(box, "blue", "python3", "-c", _UDP_RECEIVER, str(LATE_S))
        self._sender = _Program(box, "red", "python3", "-c", _UDP_SENDER, str(rate), str(len_bytes))

    def end(self) -> Seen:
        """Stop sending, and count."""
        self._sender.tell()
        sent = int(self._sender.printed())
        expected, missing, late, gap_us = map(int, self._receiver.printed().split())
        return Seen(sent, missing + sent - expected, late, gap_us / 1000)


class Transfer:
    """A TCP stream of noise from red to blue, 3 MB a second, until end()."""

    def __init__(self, box: SystemdBox) -> None:
        self._receiver = _Program(box, "blue", "python3", "-c", _TCP_RECEIVER)
        self._sender = _Program(box, "red", "python3", "-c", _TCP_SENDER)

    def end(self) -> tuple[str, str]:
        """Stop, and give hash and length as they were sent and as they came."""
        self._sender.tell()
        return self._sender.printed(), self._receiver.printed()


class Ping:
    """A ping from red to blue, 20 a second, until end()."""

    def __init__(self, box: SystemdBox) -> None:
        self._box = box
        self._before = self._answers()
        self._program = _Program(box, "red", "ping", "-n", "-i", "0.05", "10.6.0.2", ready=False)

    def end(self) -> tuple[int, int]:
        """Stop, and return how many were sent and how many came back."""
        self._program.tell(signal.SIGINT)
        out = self._program.printed()
        found = re.search(r"(\d+) packets transmitted", out)
        assert found, out
        sent = int(found[1])
        # interrupted, it does not wait for the last answer; the kernel counts that all the same
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self._answers() - self._before >= sent, LATE_S, poll_s=0.1)
        return sent, self._answers() - self._before

    def _answers(self) -> int:
        """Count the echo replies that red has had."""
        snmp = self._box.output("ip", "netns", "exec", "red", "cat", "/proc/net/snmp")
        names, counts = (line.split() for line in snmp.splitlines() if line.startswith("Icmp:"))
        return int(dict(zip(names, counts, strict=True))["InEchoReps"])
