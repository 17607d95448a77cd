"""Fail the calls of a daemon's worker threads one by one: supervisor.py has the how, syscalls.py the what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.lib.daemon import PROGRAM
from tests.lib.fd_store import FdStore
from tests.lib.site import Site
from tests.lib.supervisor import Supervisor, let_all_be
from tests.lib.syscalls import Call

CALLS_MAX = 10_000
QUIET_S = 0.02  # nothing is asked for so long: what a request set off is done


class Injection(NamedTuple):
    """One call that was failed."""

    place: int
    call: str
    errno: int


Hit = Injection | None


class Injector:
    """Counts the calls that the workers of a daemon make while it is armed, and fails one of them."""

    def __init__(self, supervisor: Supervisor, pid: int) -> None:
        """Watch the threads of pid, but not its loop's."""
        self._supervisor = supervisor
        self._pid = pid
        self._threads: set[int] | None = None
        self._target = self._turn = 0
        self.seen: Counter[int] = Counter()
        self.hit: Injection | None = None

    def each(self, work: Callable[[], None], turn: int, step: int = 1, *, apart: bool = True) -> Iterator[Hit]:
        """Do work again and again, fail its first call, its second, ..., until it makes no more; give each after it.

        What is told apart is what each thread calls, one after the other: what they call at the same time has no order.
        Undisturbed work, for which None is given, finds out which threads there are. With a step only every step'th
        call is failed, beginning with the turn's: so many turns fail all.
        """
        with self._armed(set(), 0, turn):
            work()
        yield None
        assert self.seen, "no worker makes a call"
        for group in [{thread} for thread in sorted(self.seen)] if apart else [None]:
            for target in range(turn % step, CALLS_MAX, step):
                with self._armed(group, target, turn):
                    work()
                yield self.hit
                if self.hit is None:
                    break
            else:
                raise AssertionError("there is no end of calls")

    def settle(self) -> None:
        """Return once what was set off before is done."""
        self._supervisor.quiet(QUIET_S)

    @contextmanager
    def _armed(self, threads: set[int] | None, target: int, turn: int) -> Iterator[None]:
        """Fail the target'th call that those threads (None: all) make in the body, and in what it sets off."""
        self._threads, self._target, self._turn = threads, target, turn
        self.seen, self.hit = Counter(), None
        self._supervisor.rule = self._rule
        try:
            yield
            self.settle()
        finally:
            self._supervisor.rule = let_all_be

    def _rule(self, call: Call) -> int:
        if call.thread == self._pid or not call.errnos:
            return 0
        self.seen[call.thread] += 1
        if self._threads is not None and call.thread not in self._threads:
            return 0
        if sum(self.seen[one] for one in self._threads or self.seen) != self._target + 1:
            return 0
        code = call.errnos[(self._target + self._turn) % len(call.errnos)]
        self.hit = Injection(self._target, call.name, code)
        return code


@contextmanager
def injected(site: Site, directory: Path) -> Iterator[tuple[Injector, FdStore]]:
    """Start a site's daemon under a supervisor, with a store of descriptors as under systemd; stop it at the end."""
    with ExitStack() as stack:
        store = stack.enter_context(FdStore(directory / "notify"))
        supervisor = stack.enter_context(Supervisor(directory / "launch", store.fds(), store.environ, supervised=True))
        site.program = (*supervisor.prefix(), *PROGRAM)
        site.start()
        stack.callback(site.stop)
        yield Injector(supervisor, site.daemon.pid), store
