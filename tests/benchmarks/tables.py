"""Tables of figures, as text for the terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tests.benchmarks.data import Run

Cell = str | int | float
ABREAST = 4  # more do not fit a terminal


def contest_tables(run: Run) -> str:
    """Return the medians of all who took part, a few a table, and their ratios to the first, round by round."""
    names = [each.name for each in run.entrants if any(sample.contestant == each.name for sample in run.samples)]
    if not names:
        return "nothing measured"
    first, others = names[0], names[1:]
    groups = [others[n : n + ABREAST] for n in range(0, max(len(others), 1), ABREAST)]
    return "\n\n".join(_contest_table(run, first, group) for group in groups)


def _contest_table(run: Run, first: str, others: Sequence[str]) -> str:
    rows: list[list[Cell]] = []
    for figure in run.figures:
        row: list[Cell] = [figure.title, run.median(first, figure.key)]
        for name in others:
            row += [run.median(name, figure.key), run.ratio(name, first, figure.key)]
        if any(isinstance(value, float) and not math.isnan(value) for value in row):
            rows.append(row)
    return text(["medians", first, *(value for name in others for value in (name, "ratio"))], rows)


class Table(NamedTuple):
    """A table; title says what of. The first cell of a row is the row's title."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def bound_table(run: Run, first: str) -> Table | None:
    """Return, for each TCP measure, the rate that the CPU time allows, and the share of it that was reached.

    Of all contestants that have a process; None if the first was not measured.
    """
    measured = {sample.contestant for sample in run.samples} - {first}
    names = [each.name for each in run.entrants if each.name in measured]
    rows: list[list[Cell]] = []
    for figure in run.figures:
        bounds = {name: run.bound(name, first, figure.key) for name in names}
        if not all(map(math.isnan, bounds.values())):
            cells = [(bound, run.median(name, figure.key) / bound) for name, bound in bounds.items()]
            rows.append([figure.title, *(value for both in cells for value in both)])
    head = ["all CPUs used up at", *(words for name in names for words in (name, "reached"))]
    return Table("bound", head, rows) if rows else None


def text(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table for the terminal; the first column is text."""
    cells = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join(value.ljust(width) if not column else value.rjust(width) for column, (value, width) in enumerate(row))
        for row in (list(zip(each, widths, strict=True)) for each in cells)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table for a page."""
    lines = [list(head), ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Cell) -> str:
    """Return a number with three digits that mean something, and - for none."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
