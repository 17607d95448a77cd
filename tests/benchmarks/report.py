"""Writes a page's tables and plots from the file of a run: `python -m tests.benchmarks.report FILE`.

In the page a table stands between <!-- bench:NAME --> and <!-- /bench:NAME -->; what is outside is written by hand.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import hosts, targets
from tests.benchmarks.data import Entrant, Figure, Run
from tests.benchmarks.extras import EXTRAS
from tests.benchmarks.peers import PEERS
from tests.benchmarks.tables import Cell, bound_table, markdown

DOCS = Path(__file__).parents[2] / "docs"
KERNEL = "kernel"
PEER_FIGURES = ("tcp1", "udp64", "udp64_over", "ping", "pinga", "rr_p50", "tcp1_cpu", "udp64_cpu", "idle")
GRO_OFF = ":gro=off"
MARK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench:\2 -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables into the page and the README, keep the run in the page's directory, and draw the plots."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.report", description=main.__doc__)
    parser.add_argument("file", type=Path, help="what `python -m tests.benchmarks --json FILE` wrote")
    parser.add_argument("--page", type=Path, default=DOCS / "performance.md", help="[default: docs/performance.md]")
    parser.add_argument("--readme", type=Path, default=DOCS.parent / "README.md", help="[default: README.md]")
    parser.add_argument("--plots", type=Path, default=DOCS / "img", metavar="DIRECTORY", help="[default: docs/img]")
    said = parser.parse_args(argv)
    run = Run.load(said.file)
    runs = hosts.keep(run, said.page.with_suffix(""))
    for page in (said.page, said.readme):
        write(run, runs, page)
    try:
        from tests.benchmarks import plots  # noqa: PLC0415 - tables can be had without matplotlib
    except ImportError as error:
        parser.exit(1, f"{said.page} is written, but no plot: {error.name} is missing (pip install '.[bench]')\n")
    print(f"written: {said.page}", *(f"         {path}" for path in plots.draw(run, said.plots)), sep="\n")


def write(run: Run, runs: Sequence[Run], page: Path) -> None:
    """Put the tables of a run, and of those of all hosts, where the page has their marks.

    Raises ValueError for a mark that names none.
    """
    found = blocks(run) | {"hosts": hosts.table(runs), "headline": hosts.headline(runs)}

    def filled(match: re.Match[str]) -> str:
        if match[2] not in found:
            raise ValueError(f"{page}: no table {match[2]!r}: one of {', '.join(found)}")
        return f"{match[1]}{found[match[2]] or 'Not measured in this run.'}\n{match[3]}"

    page.write_text(MARK.sub(filled, page.read_text()))


def blocks(run: Run) -> dict[str, str]:
    """Return all tables as Markdown by their names; "" where the run has no figures for one."""
    found = {name: block(run) for name, block in BLOCKS.items()}
    for extra in EXTRAS:
        figures = run.extras.get(extra.name)
        shown = extra.tables(figures) if figures else []
        found |= dict.fromkeys(extra.titles, "") | {table.title: markdown(table.head, table.rows) for table in shown}
    return found


def _machine(run: Run) -> str:
    what: dict[str, Any] = run.machine
    versions = ", ".join(f"{each.title} {each.version}" for each in run.entrants if each.version)
    virtual = f"virtualization {what.get('virtualization', 'unknown')}, governor {what.get('governor', 'unknown')}"
    machine = (
        f"Linux {what['kernel']}, {hosts.title(run)}, {virtual}, {what['memory_gib']} GiB, Python {what['python']}"
    )
    load = (
        f"load average {run.load_before} before and {run.load_after} after, {run.stolen():.1%} of the CPU time stolen"
    )
    when = f"begun {run.started}, {run.rounds} round{'s' * (run.rounds > 1)}, {run.seconds / 60:.0f} minutes, {load}"
    rough = "**A short run: these figures are rough.** " if run.quick else ""
    return f"{rough}{machine}{'; ' if versions else ''}{versions}; {when}: `{run.command}`."


def _contest(run: Run) -> str:
    return _table(run, run.figures, _taking(run, lambda each: ":" not in each.name and not _is_peer(each)))


def _gro(run: Run) -> str:
    off = _taking(run, lambda each: each.name.endswith(GRO_OFF))
    engines = [each.name.removesuffix(GRO_OFF) for each in off]
    rows: list[list[Cell]] = []
    for figure in run.figures:
        ratios = [[run.ratio(name + how, KERNEL, figure.key) for how in ("", GRO_OFF)] for name in engines]
        if any(not math.isnan(without) for _, without in ratios):
            rows.append([figure.title, *(ratio for both in ratios for ratio in both)])
    head = ["times veth", *(f"{name}, {how}" for name in engines for how in ("on", "off"))]
    return markdown(head, rows) if rows else ""


def _peers(run: Run) -> str:
    taking = _taking(run, lambda each: ":" not in each.name)
    figures = [figure for figure in run.figures if figure.key in PEER_FIGURES]
    if not any(map(_is_peer, taking)):
        return ""
    rows: list[list[Cell]] = [
        [figure.title, *(run.median(each.name, figure.key) for each in taking)] for figure in figures
    ]
    return markdown(["medians", *(each.title for each in taking)], rows)


def _bound(run: Run) -> str:
    table = bound_table(run, KERNEL)
    return markdown(table.head, table.rows) if table else ""


def _against_asyncio(run: Run) -> str:
    figures = {figure.key: figure for figure in run.figures}
    worst = sorted(targets.against_asyncio(run).items(), key=lambda each: each[1])
    rows: list[list[Cell]] = [[figures[key].title, ratio] for key, ratio in worst]
    return markdown(["native, times better than asyncio", "median of the rounds"], rows) if rows else ""


def _absent(run: Run) -> str:
    absent = [f"- {each.title}: {each.absent}" for each in run.entrants if each.absent]
    return "\n".join(absent) or "All programs took part."


def _targets(run: Run) -> str:
    return markdown(["target", "floor", "goal", "measured", "result"], targets.rows(run))


def _table(run: Run, figures: Sequence[Figure], taking: Sequence[Entrant]) -> str:
    others = [each for each in taking if each.name != KERNEL]
    rows: list[list[Cell]] = []
    for figure in figures:
        row: list[Cell] = [figure.title, run.median(KERNEL, figure.key)]
        for each in others:
            row += [run.median(each.name, figure.key), run.ratio(each.name, KERNEL, figure.key)]
        if any(not math.isnan(float(value)) for value in row[1:]):
            rows.append(row)
    return (
        markdown(["", "kernel veth", *(text for each in others for text in (each.title, "ratio"))], rows)
        if rows
        else ""
    )


def _taking(run: Run, wanted: Callable[[Entrant], bool]) -> list[Entrant]:
    measured = {sample.contestant for sample in run.samples}
    return [each for each in run.entrants if each.name in measured and wanted(each)]


def _is_peer(entrant: Entrant) -> bool:
    return entrant.name in {peer.name for peer in PEERS}


BLOCKS: dict[str, Callable[[Run], str]] = {
    "machine": _machine,
    "targets": _targets,
    "contest": _contest,
    "gro": _gro,
    "bound": _bound,
    "engines": _against_asyncio,
    "peers": _peers,
    "absent": _absent,
}

if __name__ == "__main__":
    main()
