"""A contestant and the line that it draws: two devices in two namespaces, and whatever forwards between them."""

from __future__ import annotations

import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.traffic import Traffic
from tests.lib.lab import Wire
from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns
from tests.lib.sockets import ping


@dataclass
class Place:
    """Where a line is to be drawn: the forwarder's namespace and the two that it joins, and a directory for files."""

    home: Netns
    near: Netns
    far: Netns
    directory: Path


@dataclass
class Line:
    """Two joined devices, near one first; pids are the forwarder's processes, none for the kernel."""

    wire: Wire
    pids: Sequence[int] = ()
    near_ip: str = ""
    far_ip: str = ""
    traffic: Traffic = field(init=False)


class Contestant(ABC):
    """Something that joins two network namespaces."""

    name: str
    title: str

    def version(self) -> str:
        """Say which version of it this is, "" where the machine's description does."""
        return ""

    @abstractmethod
    def draw(self, place: Place, stack: ExitStack) -> Line:
        """Join place.near and place.far by two devices that are up; the stack takes it all down again.

        Raises whatever says best why it cannot be.
        """

    def prove(self, line: Line) -> None:
        """Check what must hold after any traffic. Raises AssertionError where it does not."""
        line.wire.wait_carrier()

    @contextlib.contextmanager
    def at_rest(self, line: Line) -> Iterator[None]:  # noqa: ARG002 - for those that have to be held
        """Hold the forwarder still while the body runs, but for its turns; who is idle by himself may go on."""
        yield

    @contextlib.contextmanager
    def turn(self, line: Line) -> Iterator[None]:  # noqa: ARG002 - as above
        """Have the forwarder work while the body runs."""
        yield


class Peer(Contestant):
    """Another program. Some of them poll without a pause: each stands still while it is not its turn."""

    @contextlib.contextmanager
    def at_rest(self, line: Line) -> Iterator[None]:
        """Stop its processes; at the end they run, so that they can be asked to go."""
        self._signal(line, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # one that failed is gone, and waited for, already
                self._signal(line, signal.SIGCONT)

    @contextlib.contextmanager
    def turn(self, line: Line) -> Iterator[None]:
        """Let its processes run while the body runs."""
        self._signal(line, signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(line, signal.SIGSTOP)

    @staticmethod
    def _signal(line: Line, number: int) -> None:
        for pid in line.pids:
            os.kill(pid, number)  # children of ours, not yet waited for: the numbers are theirs still


@contextlib.contextmanager
def drawn(contestant: Contestant, program: Path, directory: Path) -> Iterator[Line]:
    """Draw a contestant's line between new namespaces, give its ends addresses, and prove that it carries frames."""
    with ExitStack() as stack:
        tag = "".join(each for each in contestant.name if each.isalnum())

        def netns(role: str) -> Netns:
            made = Netns.create(f"{PREFIX}{tag}-{role}")
            stack.callback(made.delete)
            return made

        directory.mkdir(parents=True)
        place = Place(netns("home"), netns("a"), netns("b"), directory)
        line = contestant.draw(place, stack)
        line.near_ip, line.far_ip = line.wire.addresses()
        line.traffic = Traffic(program, place.near, place.far, line.near_ip, line.far_ip)
        line.traffic.pids = line.pids
        ping(place.near, line.near_ip, place.far, line.far_ip)
        contestant.prove(line)
        yield line
