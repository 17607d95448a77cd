"""The command line: the contest, then the benchmarks beside it; tables on the terminal, all figures in a file."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from tests.benchmarks.contest import Plan, compete
from tests.benchmarks.contestants import Engine, contestant, everybody
from tests.benchmarks.data import Run
from tests.benchmarks.extra import Extra, Setting
from tests.benchmarks.extras import EXTRAS
from tests.benchmarks.line import Contestant, Peer
from tests.benchmarks.measures import FULL, MEASURES, QUICK, Measure
from tests.benchmarks.tables import bound_table, contest_tables, text
from tests.benchmarks.traffic import compiled
from tests.lib import machine

ROUNDS, QUICK_ROUNDS = 5, 1
PEER_ROUNDS = 3
GRO_OFF_ROUNDS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line says."""
    parser = _parser()
    said = parser.parse_args(argv)
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        parser.exit(1, "benchmarks make namespaces and TAP devices: run them as root, with /dev/net/tun\n")
    try:
        measures, extras = _chosen(said.only)
        taking = [contestant(name) for name in said.contestants or everybody()]
    except ValueError as error:
        parser.error(str(error))
    rounds = said.rounds or (QUICK_ROUNDS if said.quick else ROUNDS)
    run = Run(
        command=shlex.join(["python", "-m", "tests.benchmarks", *(sys.argv[1:] if argv is None else argv)]),
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        rounds=rounds,
        quick=said.quick,
        load_before=machine.load(),
        machine=machine.describe(),
        figures=[figure for measure in measures for figure in measure.figures],
    )
    start = time.monotonic()

    def save() -> None:
        run.seconds = round(time.monotonic() - start, 1)
        run.load_after = machine.load()
        if said.json is not None:
            run.save(said.json)

    with unwinding(), tempfile.TemporaryDirectory(prefix="vethd-bench-") as directory:
        compiled(Path(directory))
        plans = [
            Plan(each, rounds, measures) if said.contestants else plan(each, measures, rounds, quick=said.quick)
            for each in taking
        ]
        if measures:
            compete(plans, run, QUICK if said.quick else FULL, Path(directory), save)
            print(f"\n{contest_tables(run)}", flush=True)
            if bounds := bound_table(run, taking[0].name):
                print(f"\n{text(bounds.head, bounds.rows)}", flush=True)
        engines = [each.name for each in taking if isinstance(each, Engine) and not each.settings]
        for extra in extras:
            print(f"\n{extra.name}", flush=True)
            run.extras[extra.name] = extra.measure(Setting(engines, Path(directory), said.quick))
            for table in extra.tables(run.extras[extra.name]):
                print(f"\n{text(table.head, table.rows)}", flush=True)
            save()
    save()
    load = f"load average {run.load_before} before, {run.load_after} after"
    print(f"\n{run.seconds:.0f} s, {load}, {run.stolen():.1%} of the CPU time stolen")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure vethd beside the kernel's veth and other programs.",
        epilog=f"Measures: {', '.join(each.name for each in (*MEASURES, *EXTRAS))}. "
        f"Contestants: {', '.join(everybody())}, and engines with lines of their config, as in "
        "native:gro=off+spin_us=0.",
    )
    names = "NAME[,NAME...]"
    parser.add_argument("--only", type=_words, metavar=names, help="measure only that")
    parser.add_argument("--contestants", type=_words, metavar=names, help="who takes part, the yardstick first")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"how many rounds [default: {ROUNDS}]")
    parser.add_argument("--quick", action="store_true", help="one round, and short")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


def _words(text: str) -> list[str]:
    return text.split(",")


def plan(who: Contestant, measures: Sequence[Measure], rounds: int, *, quick: bool) -> Plan:
    """Say how often, and in what, a contestant takes part that nobody asked for by name."""
    if isinstance(who, Peer):
        return Plan(who, min(rounds, PEER_ROUNDS), [each for each in measures if each.brief or not quick])
    if isinstance(who, Engine) and who.settings:
        taking = [each for each in measures if each.about_gro and (each.brief or not quick)]
        return Plan(who, min(rounds, GRO_OFF_ROUNDS), taking)
    return Plan(who, rounds, measures)


def _chosen(names: Sequence[str] | None) -> tuple[list[Measure], list[Extra]]:
    known = [each.name for each in (*MEASURES, *EXTRAS)]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"no measure {unknown[0]!r}: one of {', '.join(known)}")
    wanted = names or known
    return [each for each in MEASURES if each.name in wanted], [each for each in EXTRAS if each.name in wanted]


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Have SIGTERM and Ctrl-C unwind what was set up; a second one does not stop that."""

    def interrupt(number: int, _frame: object) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        sys.stderr.write("\nclearing away\n")
        raise SystemExit(128 + number)

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
