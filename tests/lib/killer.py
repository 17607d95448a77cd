"""A daemon with a store of descriptors, run and killed as often as wanted, in front of whichever step of a request."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lib.daemon import PROGRAM
from tests.lib.fd_store import FdStore
from tests.lib.site import Site
from tests.lib.supervisor import DEAD, Supervisor, let_all_be
from tests.lib.syscalls import TUNSETCARRIER, TUNSETIFF, Call

STEPS = ("sendto", "sendmsg", "pwrite64", "ftruncate", f"ioctl({TUNSETIFF:#x})", f"ioctl({TUNSETCARRIER:#x})")
"""The calls of a request that change anything outside the daemon: requests of the kernel, the store and the record."""
RECORD = {"s0", "s1"}
QUIET_S = 0.02  # with no call for so long, what was set off is over


class Killer:
    """A daemon with a store, which can be killed in front of one of its steps."""

    def __init__(self, site: Site, store: FdStore, directory: Path) -> None:
        self.site = site
        self.store = store
        self._directory = directory
        self._lives = 0

    @contextmanager
    def life(self, *, supervised: bool = False) -> Iterator[Supervisor]:
        """Have the daemon run, with what its predecessor left in the store."""
        self._lives += 1
        path = self._directory / f"launch{self._lives}"
        with Supervisor(path, self.store.fds(), self.store.environ, supervised=supervised) as supervisor:
            self.site.program = (*supervisor.prefix(), *PROGRAM)
            self.site.start()
            try:
                yield supervisor
            finally:
                if self.site.running and self.site.daemon.process.poll() is None:
                    self.site.stop()
                elif self.site.running:
                    self.site.kill()

    def killed_at(
        self,
        step: int,
        prepare: Callable[[], object],
        work: Callable[[], object],
        steps: Sequence[str] = STEPS,
        thin: int = 1,
    ) -> str:
        """Run until work has come to that step, and kill it in front of it; return the call, "" where there are fewer.

        Steps are calls of those names; of sendto only every thin'th. They are counted once the start and what prepare
        set off, which have such steps too, are over.
        """
        hit: list[str] = []
        seen: Counter[str] = Counter()
        with self.life(supervised=True) as supervisor:
            self.site.reconciled()
            prepare()
            supervisor.quiet(QUIET_S)
            pid = self.site.daemon.pid

            def rule(call: Call) -> int:
                if hit:
                    return DEAD
                if call.name in steps:
                    seen[call.name] += 1
                    seen["step"] += call.name != "sendto" or seen["sendto"] % thin == 0
                    if seen["step"] == step + 1:
                        hit.append(call.name)
                        os.kill(pid, signal.SIGKILL)
                        return DEAD
                return 0

            supervisor.rule = rule
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                work()
            supervisor.quiet(QUIET_S)
            supervisor.rule = let_all_be
            if hit:
                self.site.daemon.process.wait()
            else:
                self.site.kill()
        return hit[0] if hit else ""
