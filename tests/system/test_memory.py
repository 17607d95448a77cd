"""A pair leaves nothing in the daemon, in whichever way it was made and deleted. The test counts objects.

Theory of operation. After a warm-up, every way of tests/soak/lives.py takes its turn, ROUNDS times, and the daemon's
objects are counted before and after. The numbers of objects of its own classes, descriptors, mapped filters and
namespace ids must not have grown by a single one, without the garbage collector's help (tests/lib/peek.py).

The interpreter keeps some other objects: 100 compiled formats of struct, the last 128 URLs of urllib, free lists. Such
a cache is full at some time. So all objects are counted over two turns, one after the other, and the number of a type,
or of the members of all containers, must not grow in both turns by one per round of one way: a leak grows so, in
whichever way it is. Blocks of the interpreter's allocator include strings and numbers that have no other count, and
their noise is some 60 per turn: their limit is one per pair.

`python -m tests.soak.lifetimes` measures memory that is in neither count.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lib import peek
from tests.lib.fd_store import FdStore
from tests.lib.netns import Netns
from tests.lib.site import Site
from tests.lib.site import site as make_site
from tests.lib.supervisor import Supervisor
from tests.lib.wait import wait_until
from tests.soak.ground import Ground, grounds
from tests.soak.lifetimes import CLIENTS, FILTER, Weight
from tests.soak.lives import WAYS, live

ROUNDS = 12
URLS = 300  # more than any cache of URLs keeps
ADOPTED = 12
PAIRLESS = ("refused", "heard", "hung up")


@dataclass(frozen=True)
class Exact:
    """The exact figures: the daemon's own objects, its size, and the number of namespace ids of its namespace."""

    ours: Counter[str]
    weight: Weight
    ids: int

    def more_than(self, before: Exact) -> list[str]:
        """Return the figures that are larger than before."""
        found = [f"{count} {what}" for what, count in (self.ours - before.ours).items()]
        ids = [f"namespace ids {before.ids} -> {self.ids}"] if self.ids > before.ids else []
        return found + ids + self.weight.more_than(before.weight)


@dataclass
class Watched:
    """A daemon whose objects can be counted."""

    ground: Ground
    hole: Path
    pool: ThreadPoolExecutor

    def turn(self) -> None:
        """Run all ways."""
        for way in WAYS.values():
            live(self.ground, way, ROUNDS, self.pool)

    def exact(self) -> Exact:
        """Return the exact figures."""
        ids = self.ground.site.home.command("ip", "netns", "list-id").splitlines()
        return Exact(peek.ask(self.hole, sweep=False).ours, Weight.of(self.ground), len(ids))

    def settled(self, before: Exact) -> None:
        """Wait until no figure is larger than before. Raises AssertionError with the larger ones."""
        more: list[str] = []

        def as_before() -> bool:
            more[:] = self.exact().more_than(before)
            return not more

        try:
            wait_until(as_before, poll_s=0.1)
        except AssertionError as error:
            raise AssertionError(f"more than before: {', '.join(more)}") from error

    def swept(self) -> peek.Held:
        """Count everything that is not garbage."""
        return peek.ask(self.hole, sweep=True)


@pytest.fixture
def watched(root: None, tmp_path: Path, engine: str) -> Iterator[Watched]:  # noqa: ARG001 - needs root
    path = tmp_path / "peek"
    program = (sys.executable, "-m", "tests.lib.peek", str(path))
    with grounds(tmp_path, engine, program) as ground, ThreadPoolExecutor(CLIENTS) as pool:
        yield Watched(ground, path, pool)


def test_every_way_of_living_and_dying_leaves_nothing(watched: Watched) -> None:
    for number in range(URLS):
        watched.ground.daemon.request("GET", f"/v1/pairs/{number}")
    watched.turn()
    first = watched.swept()
    before = watched.exact()  # after a collection, so without garbage
    watched.turn()
    watched.settled(before)
    second = watched.swept()
    watched.turn()
    watched.settled(before)
    third = watched.swept()
    grown, again = second.more_than(first), third.more_than(second)
    pairs = ROUNDS * (len(WAYS) - len(PAIRLESS))
    leaks = {
        what: (more, again[what])
        for what, more in grown.items()
        if min(more, again[what]) >= (pairs if what == "blocks" else ROUNDS)
    }
    print(f"{pairs} pairs, then {pairs} again: {grown.most_common(6)}, then {again.most_common(6)}")
    assert not leaks, f"growth in each of two turns: {leaks}"


@contextmanager
def life(site: Site, store: FdStore, hole: Path) -> Iterator[None]:
    """Run a daemon whose objects can be counted, with the fds of the store; stop it if it still runs."""
    with Supervisor(hole.with_suffix(".launch"), store.fds(), store.environ, supervised=False) as supervisor:
        site.program = (*supervisor.prefix(), sys.executable, "-m", "tests.lib.peek", str(hole))
        site.start()
        try:
            site.reconciled()
            yield
        finally:
            if site.running:
                site.stop()


def test_adopted_pairs_leave_nothing(root: None, tmp_path: Path, engine: str) -> None:  # noqa: ARG001 - needs root
    """A daemon that adopted a killed one's pairs holds, once they are gone, as much as one without pairs."""
    first, second = tmp_path / "first", tmp_path / "second"
    with make_site(tmp_path, engine) as (site, lab), FdStore(tmp_path / "store") as store:
        doomed, kept = lab.netns(), lab.netns()
        with life(site, store, first):
            before = peek.ask(first, sweep=True).ours
            pairs = [site.post(_spec(number, doomed if number % 2 else kept)) for number in range(ADOPTED)]
            site.kill()
        with life(site, store, second):
            assert site.reconciled()["adopted"] == ADOPTED
            for pair in pairs[::2]:
                assert site.daemon.request("DELETE", f"/v1/pairs/{pair['id']}")[0] == 204
            doomed.delete()

            left: list[str] = []

            def gone() -> bool:
                more = peek.ask(second, sweep=False).ours - before
                left[:] = [pair["id"] for pair in site.daemon.pairs()]
                left[len(left) :] = [f"{count} {what}" for what, count in more.items() if count >= ADOPTED]
                return not left

            try:
                wait_until(gone, poll_s=0.1)
            except AssertionError as error:
                raise AssertionError(f"left of {ADOPTED} pairs: {left}") from error
            assert Path(f"/proc/{site.daemon.pid}/maps").read_text().count(FILTER) == 0


def _spec(number: int, far: Netns) -> dict[str, object]:
    return {"name": f"a{number}", "up": True, "peer": {"name": f"b{number}", "netns": far.name}}
