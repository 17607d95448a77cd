"""Traffic that knows whose it is: a small C program, compiled when it is wanted, and what it tells at its end."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from tests.lib.netns import command
from tests.lib.wait import readable

SOURCES = Path(__file__).parent
END_S = 120.0

T = TypeVar("T")


class FramesResult(msgspec.Struct, forbid_unknown_fields=True):
    """Datagrams of one side. sent were taken by a device, refused dropped by its full queue (its tx_dropped).

    foreign bear another pair's mark, or come back to who sent them; corrupt are not what anybody sent.
    """

    sent: int
    refused: int
    received: int
    foreign: int
    corrupt: int
    reordered: int
    socket_drops: int

    def assert_pure(self) -> None:
        """See that only its own came, whole and in order."""
        assert (self.foreign, self.corrupt, self.reordered) == (0, 0, 0), self


class StreamResult(msgspec.Struct, forbid_unknown_fields=True):
    """Bytes of a TCP stream, and how many reads gave some that were not its next."""

    arrived: int
    wrong: int


class Load(Generic[T]):
    """The program at work; stop() tells the result. A context manager, which kills it where it was not stopped.

    Who receives goes on until nothing comes any more: of several that send to each other every one is to be told to
    end() before any is waited for.
    """

    def __init__(self, kind: type[T], program: Path, *args: object) -> None:
        """Start it, and wait until it has begun."""
        self._kind = kind
        argv = [str(program), *map(str, args)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert readable(self._process.stdout.fileno(), END_S), f"{argv} did not begin"
        assert self._process.stdout.readline() == b"ready\n", f"{argv} ended with {self._process.wait(END_S)}"

    def __enter__(self) -> Load[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Tell it to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None

    def stop(self) -> T:
        """Let it end, and return what it tells. Raises AssertionError where it failed."""
        out, _ = self._process.communicate(timeout=END_S)
        assert self._process.returncode == 0, f"{self._process.args!r} ended with {self._process.returncode}"
        return msgspec.json.decode(out, type=self._kind)


class Loads:
    """The compiled program."""

    def __init__(self, program: Path) -> None:
        """Refer to what compiled() made."""
        self.program = program

    def frames(self, netns: Path, mark: int, side: int, rate: float) -> Load[FramesResult]:
        """Send and receive datagrams of that mark by any device of a namespace; rate a second."""
        return Load(FramesResult, self.program, "frames", netns, mark, side, rate)

    def stream(self, near: Path, far: Path, far_ip: str, mark: int) -> Load[StreamResult]:
        """Send TCP from near to far, which has the address far_ip."""
        return Load(StreamResult, self.program, "stream", near, far, far_ip, mark)


def compiled(directory: Path) -> Loads:
    """Compile the program into directory. Raises AssertionError with the compiler's words."""
    program = directory / "load"
    sources = map(str, sorted(SOURCES.glob("*.c")))
    command(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(program), *sources])
    return Loads(program)
