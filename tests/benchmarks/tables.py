"""Tables of figures, as text for the terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.benchmarks.data import Run

Cell = str | int | float


def contest_table(run: Run) -> str:
    """Give the medians of all who took part, and their ratios to the first, round by round."""
    names = [each.name for each in run.entrants if any(sample.contestant == each.name for sample in run.samples)]
    if not names:
        return "nothing measured"
    first = names[0]
    head = ["medians", first, *(cell for name in names[1:] for cell in (name, "ratio"))]
    rows: list[list[Cell]] = []
    for figure in run.figures:
        row: list[Cell] = [figure.title, run.median(first, figure.key)]
        for name in names[1:]:
            row += [run.median(name, figure.key), run.ratio(name, first, figure.key)]
        if any(isinstance(cell, float) and not math.isnan(cell) for cell in row):
            rows.append(row)
    return text(head, rows)


def text(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Give a table for the terminal; the first column is text."""
    cells = [list(head), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join(value.ljust(width) if not column else value.rjust(width) for column, (value, width) in enumerate(row))
        for row in (list(zip(each, widths, strict=True)) for each in cells)
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Give a table for a page."""
    lines = [list(head), ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Cell) -> str:
    """Give a number with three digits that mean something, and - for none."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
