"""One run: the world is made, everybody acts, the auditor looks, and at the end the last frame is accounted for."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from tests.lib.load import compiled
from tests.lib.systemd_box import SystemdBox
from tests.soak.actors import Actor, Declarer, Maker, Undertaker
from tests.soak.auditor import Auditor
from tests.soak.movers import RATE, Busy, Caller, Steady
from tests.soak.process import Process, Weigher
from tests.soak.report import Report, leave_state, summed_up
from tests.soak.stage import Stage, Wrong
from tests.soak.traffic import Flows
from tests.soak.upsets import Upsetter
from tests.soak.windows import Windows
from tests.soak.world import World

STEADY = (1, 2, 3)  # marks
BUSY = (11, 12)
YARD = 21
JOIN_S = 180.0


def soak(engine: str, seed: int, seconds: float, directory: Path) -> Report:
    """Live for so long on that engine; directory is for what is left of a failure. Never raises on what it finds."""
    stage, report = Stage(), Report(engine, seed, seconds)
    with ExitStack() as stack:
        loads = compiled(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vethd-soak."))))
        box = stack.enter_context(SystemdBox())
        world = World(box, engine, stage, Windows())
        flows = Flows(loads)
        stack.callback(flows.close)
        world.start()
        auditor = Auditor(world, flows, Weigher(_own_fds(world)))
        stack.enter_context(world.windows.open(YARD, "pairs that come and go"))
        actors: list[Actor] = []
        try:
            actors += _cast(world, flows, seed, seconds)
            _perform(stage, actors, auditor, seconds)
            if not stage.wrong:
                _finish(world, auditor)
        except AssertionError as error:  # Wrong, or a program that failed
            stage.fail(str(error))
        stage.end()
        report.seconds = time.monotonic() - stage.began
        report.wrong = stage.wrong[0] if stage.wrong else ""
        try:
            summed_up(report, stage, world.windows, flows.totals(), auditor)
        except Wrong as error:  # the traffic is what failed
            report.wrong = report.wrong or str(error)
        if report.wrong:
            leave_state(directory, report, world)
    return report


def _own_fds(world: World) -> int:
    """Count the descriptors of a daemon that has been asked, and has no pair."""
    world.get("/v1/pairs")
    process = world.stage.wait(lambda: Process.look(world.pid()), "the daemon")
    return len(process.fds) if process else 0


def _cast(world: World, flows: Flows, seed: int, seconds: float) -> list[Actor]:
    """Make everybody, and all the pairs that are there from the beginning."""
    yards = (world.room("yard1"), world.room("yard2"))
    for side, yard in enumerate(yards):
        flows.add(yard, YARD, side, RATE)
    flows.go()
    return [
        *(Steady(world, flows, f"{seed}.{mark}", mark) for mark in STEADY),
        *(Busy(world, flows, f"{seed}.{mark}", mark) for mark in BUSY),
        *(Maker(world, flows, f"{seed}.{number}", yards) for number in range(2)),
        Undertaker(world, flows, f"{seed}", yards[0]),
        Declarer(world, flows, f"{seed}", yards[1]),
        Caller(world, flows, f"{seed}"),
        Upsetter(world, flows, f"{seed}", seconds),
    ]


def _perform(stage: Stage, actors: list[Actor], auditor: Auditor, seconds: float) -> None:
    """Let everybody act for so long, and see them all come to an end."""
    looking = threading.Thread(target=auditor.run, name="auditor")
    everybody = [*actors, looking]
    for actor in everybody:
        actor.start()
    stage.over.wait(seconds)
    stage.end()
    end = time.monotonic() + JOIN_S
    for actor in everybody:
        actor.join(max(end - time.monotonic(), 0))
        if actor.is_alive():
            raise Wrong(f"{actor.name} does not come to an end")


def _finish(world: World, auditor: Auditor) -> None:
    """Account for every frame, then take everything away, and see that nothing is left. Raises Wrong."""
    auditor.look()
    auditor.tally(list(STEADY), world.stage.counts["processes killed"])
    auditor.look()
    world.configure("")
    world.surely("POST", "/v1/reload")
    for pair in world.listed():
        if pair.source == "runtime":
            world.delete(pair)
        else:
            world.gone(pair)
    for one in world.get("/v1/pairs"):  # what an actor was just about
        world.surely("DELETE", f"/v1/pairs/{one['id']}")
    auditor.take_stock()
    faults = [entry for entry in world.service.log() if entry.get("level") in ("error", "critical")]
    if faults:
        raise Wrong(f"the daemon logged {len(faults)} errors, the first: {faults[0]}")
