"""What a daemon and the machine around it stand on: to prove that a refused request left everything as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.lib.daemon import Daemon
from tests.lib.netns import Netns
from tests.lib.wait import wait_until


@dataclass(frozen=True)
class Footing:
    """One look. descriptors are what they point to, by kind: the numbers of sockets and the like differ."""

    links: tuple[frozenset[str], ...]
    descriptors: Counter[str]
    threads: int
    homes: frozenset[str]

    @classmethod
    def of(cls, daemon: Daemon, places: Iterable[Netns]) -> Footing:
        """Look at the daemon, and at the links of those namespaces."""
        proc = Path(f"/proc/{daemon.pid}")
        tasks = list((proc / "task").iterdir())
        return cls(
            links=tuple(frozenset(place.names()) for place in places),
            descriptors=Counter(_kind(fd) for fd in (proc / "fd").iterdir()),
            threads=len(tasks),
            homes=frozenset(home for task in tasks if (home := _target(task / "ns/net"))),
        )

    def differs(self, other: Footing) -> list[str]:
        """Say in what, other being the later one."""
        mine, its = vars(self), vars(other)
        found = [f"{key}: {mine[key]} -> {its[key]}" for key in ("links", "threads", "homes") if mine[key] != its[key]]
        more, fewer = other.descriptors - self.descriptors, self.descriptors - other.descriptors
        return found + [f"descriptors: +{dict(more)} -{dict(fewer)}"] * bool(more or fewer)

    def assert_kept(self, daemon: Daemon, places: Iterable[Netns], what: str) -> None:
        """Wait until all is as it was. Raises AssertionError with what is not."""
        places = list(places)
        left: list[str] = []

        def as_before() -> bool:
            left[:] = self.differs(Footing.of(daemon, places))
            return not left

        try:
            wait_until(as_before)
        except AssertionError as error:
            raise AssertionError(f"{what}: {left}") from error


def _target(link: Path) -> str:
    """Return what a link of /proc points to, "" where it is gone: a descriptor closed, a thread ended."""
    try:
        return str(link.readlink())
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _kind(fd: Path) -> str:
    target = _target(fd) or "closed just now"
    return target.partition(":[")[0] if target.startswith(("socket:", "pipe:")) else target
