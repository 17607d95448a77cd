"""What a pair leaves in the daemon, however it lived and died: nothing. Counted, object by object.

Theory of operation. After a warm-up every way of tests/soak/lives.py takes its turn, ROUNDS times, and what the daemon
holds is counted before and after. Of objects of its own classes, descriptors, mapped filters and namespace ids there
must be as many as before, to the last one, and without the garbage collector's help (tests/lib/peek.py).

Of everything else an interpreter keeps some for itself: 100 compiled formats of struct, the last 128 URLs of yarl, free
lists. Such a cache is full at some time. So all is counted over two turns, one after the other, and a type, or the
members of all containers, must not grow by one a round of one way in both: a leak does, whichever way leaks. Blocks of
the interpreter's allocator include strings and numbers that nobody counts otherwise, and their noise is some 60 a
turn: their bound is one a pair.

`python -m tests.soak.lifetimes` weighs what is neither.
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
URLS = 300  # more than any cache of them keeps
ADOPTED = 12
PAIRLESS = ("refused", "heard", "hung up")


@dataclass(frozen=True)
class Exact:
    """How many of the daemon's own objects there are, what it weighs, and how many ids of namespaces it knows."""

    ours: Counter[str]
    weight: Weight
    ids: int

    def more_than(self, before: Exact) -> list[str]:
        """Say what there is more of than before."""
        found = [f"{count} {what}" for what, count in (self.ours - before.ours).items()]
        ids = [f"namespace ids {before.ids} -> {self.ids}"] if self.ids > before.ids else []
        return found + ids + self.weight.more_than(before.weight)


@dataclass
class Watched:
    """A daemon that can be looked into."""

    ground: Ground
    hole: Path
    pool: ThreadPoolExecutor

    def turn(self) -> None:
        """Live and die in every way."""
        for way in WAYS.values():
            live(self.ground, way, ROUNDS, self.pool)

    def exact(self) -> Exact:
        """Count of what there is an exact number."""
        ids = self.ground.site.home.command("ip", "netns", "list-id").splitlines()
        return Exact(peek.ask(self.hole, sweep=False).ours, Weight.of(self.ground), len(ids))

    def settled(self, before: Exact) -> None:
        """Wait until all is as it was. Raises AssertionError with what is not."""
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
def watched(root: None, tmp_path: Path, engine: str) -> Iterator[Watched]:  # noqa: ARG001 - the check that we may
    path = tmp_path / "peek"
    program = (sys.executable, "-m", "tests.lib.peek", str(path))
    with grounds(tmp_path, engine, program) as ground, ThreadPoolExecutor(CLIENTS) as pool:
        yield Watched(ground, path, pool)


def test_every_way_of_living_and_dying_leaves_nothing(watched: Watched) -> None:
    for number in range(URLS):
        watched.ground.daemon.request("GET", f"/v1/pairs/{number}")
    watched.turn()
    first = watched.swept()
    before = watched.exact()  # of what was not garbage
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
    assert not leaks, f"by so much in each of two turns: {leaks}"


@contextmanager
def life(site: Site, store: FdStore, hole: Path) -> Iterator[None]:
    """Have a daemon run that can be looked into, with what the store keeps; it is stopped where it still runs."""
    with Supervisor(hole.with_suffix(".launch"), store.fds(), store.environ, supervised=False) as supervisor:
        site.program = (*supervisor.prefix(), sys.executable, "-m", "tests.lib.peek", str(hole))
        site.start()
        try:
            site.reconciled()
            yield
        finally:
            if site.running:
                site.stop()


def test_adopted_pairs_leave_nothing(root: None, tmp_path: Path, engine: str) -> None:  # noqa: ARG001 - that we may
    """A daemon that took over a killed one's pairs holds what one without a pair holds, once they are gone."""
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
