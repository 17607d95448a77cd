"""Who upsets the daemon: restarts, kills, kills of one that is just starting; with calm between, to see leaks."""

from __future__ import annotations

import time
from contextlib import suppress

from tests.soak.actors import Actor
from tests.soak.stage import Wrong
from tests.soak.traffic import Flows
from tests.soak.world import World

CYCLE_S = (20.0, 600.0)  # calm, then upset; at least and at most
CALM = 0.4  # of a cycle


class Upsetter(Actor):
    """Restarts and kills at random."""

    pauses_s = (0.5, 4.0)

    def __init__(self, world: World, flows: Flows, seed: str, seconds: float) -> None:
        """A run of seconds has two cycles of calm and upset, or more."""
        super().__init__(world, flows, seed)
        self.cycle_s = min(max(seconds / 2, CYCLE_S[0]), CYCLE_S[1])

    def calm(self) -> bool:
        """Return whether the daemon is to live."""
        return (time.monotonic() - self.stage.began) % self.cycle_s < CALM * self.cycle_s

    def act(self) -> None:
        """Upset, unless there is calm."""
        if self.calm():
            return
        match self.dice.randrange(5):
            case 0 | 1:
                self.restart()
            case 2 | 3:
                self.kill(1)
            case _:
                self.kill(self.dice.randint(2, 4))

    def restart(self) -> None:
        """By systemd: the old one ends in good order, and no frame is lost."""
        old = self.world.pid()
        self.stage.did("restart")
        with self.windows.away("restart"):
            done = self.world.box.run("systemctl", "restart", "vethd.service")
            if done.returncode:
                raise Wrong(f"systemctl restart: {done.stderr}")
            self.back(old)

    def kill(self, times: int) -> None:
        """With SIGKILL; again and again, at whatever its successors have come to by then."""
        self.stage.did("kill" if times == 1 else "kills in a row", str(times))
        with self.windows.away("kill"):
            old = 0
            for _ in range(times):
                old = self.next(old)
                with self.windows.kill(), suppress(ProcessLookupError):
                    self.world.kill(old)
                self.stage.counts["processes killed"] += 1
                self.stage.pause(self.dice.uniform(0, 0.5))
            self.back(old)

    def next(self, old: int) -> int:
        """Wait for another process than old, however far it has come."""
        return self.stage.wait(lambda: (pid := self.world.pid()) != old and pid, "a daemon to kill")

    def back(self, old: int) -> None:
        """Wait until another process answers."""
        self.stage.wait(lambda: self.world.pid() not in (0, old), "the daemon is back")
        self.world.get("/v1/health")
