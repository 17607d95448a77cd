"""Traffic for the benchmarks: a small C program, compiled when it is wanted, and what it tells, typed.

Python sends some 100,000 datagrams a second; what is measured here carries several times that.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tests.lib.netns import Netns, command

SOURCES = Path(__file__).parent
TRAFFIC_S = 60.0


class TrafficError(AssertionError):
    """A line did not carry what it was asked to carry, in the program's own words."""


class TcpResult(msgspec.Struct, forbid_unknown_fields=True):
    """Bytes that arrived within so many seconds, and the CPU time of the forwarder and of the whole machine."""

    bytes: int
    seconds: float
    cpu_s: float
    busy_s: float


class UdpResult(msgspec.Struct, forbid_unknown_fields=True):
    """One trial: datagrams sent and received, and how long either side was at it.

    refused were answered with ENOBUFS and count as sent; socket_drops came as far as a full receive buffer.
    """

    sent: int
    refused: int
    received: int
    reordered: int
    foreign: int
    socket_drops: int
    send_s: float
    receive_s: float
    cpu_s: float

    @property
    def loss(self) -> float:
        """The share that did not arrive."""
        return 1 - self.received / self.sent

    @property
    def rate(self) -> float:
        """Datagrams a second that arrived, over the time that the slower side took."""
        return self.received / max(self.send_s, self.receive_s)

    @property
    def offered(self) -> float:
        """Datagrams a second that were sent."""
        return self.sent / self.send_s


class RrResult(msgspec.Struct, forbid_unknown_fields=True):
    """Round trips of a request and its response."""

    count: int
    lost: int
    mean_us: float
    p50_us: float
    p99_us: float
    cpu_s: float


class Traffic:
    """The compiled program, between two namespaces whose addresses it is told."""

    def __init__(self, program: Path, near: Netns, far: Netns, near_ip: str, far_ip: str) -> None:
        """Refer to what compiled() made."""
        places = {"near_ns": near.path, "far_ns": far.path, "near_ip": near_ip, "far_ip": far_ip}
        self._base = [str(program), *(f"{key}={value}" for key, value in places.items())]
        self.pids: Sequence[int] = ()

    def tcp(self, seconds: float, *, warmup: float, flows: int = 1, both: bool = False) -> TcpResult:
        """Send TCP for so long, after a warm-up that does not count."""
        said = {"seconds": seconds, "warmup": warmup, "flows": flows, "both": int(both)}
        return msgspec.json.decode(self._run("tcp", said), type=TcpResult)

    def udp(self, seconds: float, size: int, rate: float = 0, *, flows: int = 1, segments: int = 1) -> UdpResult:
        """Send UDP at rate datagrams a second, 0 for as many as go; segments of them a system call (UDP_SEGMENT)."""
        said = {"seconds": seconds, "size": size, "rate": rate, "flows": flows, "segments": segments}
        return msgspec.json.decode(self._run("udp", said), type=UdpResult)

    def rr(self, seconds: float, *, warmup: float, load: bool = False, apart: bool = False) -> RrResult:
        """Send a datagram and wait for its answer, again and again.

        load is a TCP flow beside it, the same way; apart pins the two to two CPUs, where there are two.
        """
        said = {"seconds": seconds, "warmup": warmup, "load": int(load), "apart": int(apart)}
        return msgspec.json.decode(self._run("rr", said), type=RrResult)

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """Send one TCP flow while the body runs."""
        argv = self._argv("tcp", {"seconds": TRAFFIC_S, "warmup": 0})
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as program:
            try:
                yield
                if program.poll() is not None:
                    raise TrafficError(f"the TCP flow beside it ended: {program.returncode}")
            finally:
                program.kill()  # its children die with it

    def _argv(self, kind: str, said: Mapping[str, float]) -> list[str]:
        argv = [self._base[0], kind, *self._base[1:], *(f"{key}={value}" for key, value in said.items())]
        return argv + [f"pid={pid}" for pid in self.pids]

    def _run(self, kind: str, said: dict[str, float]) -> bytes:
        argv = self._argv(kind, said)
        try:
            done = subprocess.run(argv, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=TRAFFIC_S)
        except subprocess.TimeoutExpired as error:
            raise TrafficError(f"{kind} {said}: not within {TRAFFIC_S:.0f} s") from error
        if done.returncode:
            raise TrafficError(f"{kind} {said}: {done.stderr.decode().strip() or done.returncode}")
        return done.stdout


def compiled(directory: Path) -> Path:
    """Compile the program into directory. Raises AssertionError with the compiler's words."""
    program = directory / "traffic"
    command(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), *map(str, sorted(SOURCES.glob("*.c")))])
    return program
