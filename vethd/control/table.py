"""Print tables: on a terminal fitted to its width, otherwise as plain, aligned, complete lines for grep and awk."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field

import click

EMPTY = "-"
Cell = str | tuple[str, ...]

_EXACT_BELOW = 100_000
_STEP = 1000
_UNITS = "kMGTPE"


@dataclass
class Table:
    """Columns (">" before a name aligns it to the right) and rows of text; a tuple is a list within a cell."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Append one row."""
        self.rows.append(cells)

    def plain(self) -> str:
        """Return the table as lines: two spaces between columns, "-" for an empty cell, no text cut."""
        return self._aligned(
            [[name] for name in self._heads()], [[[_text(cell, ",")] for cell in row] for row in self.rows]
        )

    def fitted(self, width: int) -> str:
        """Return the table for a terminal of width columns; no word is broken, so that each can be copied.

        If plain() is too wide, heads and lists take several lines. If that is too wide, each row becomes a block with a
        line for each column: its name and the cell.
        """
        heads = self._heads()
        stacked = [[_text(cell, "\n").split("\n") for cell in row] for row in self.rows]
        for text in (self.plain(), self._aligned([name.split("-") for name in heads], stacked)):
            if max(map(len, text.splitlines())) <= width:
                return text
        longest = max(map(len, heads))
        return "\n\n".join(
            "\n".join(f"{head:<{longest}}  {_text(cell, ', ')}" for head, cell in zip(heads, row, strict=True))
            for row in self.rows
        )

    def _heads(self) -> list[str]:
        return [name.removeprefix(">") for name in self.columns]

    def _aligned(self, heads: list[list[str]], rows: list[list[list[str]]]) -> str:
        """Return lines of aligned columns; a cell is a list of lines, heads stand at the bottom of theirs."""
        tallest = max(map(len, heads))
        every = [[[""] * (tallest - len(head)) + head for head in heads], *rows]
        widths = [max(len(line) for row in every for line in row[n]) for n in range(len(heads))]
        lines = []
        for row in every:
            for number in range(max(map(len, row))):
                cells = [cell[number] if number < len(cell) else "" for cell in row]
                aligned = (
                    cell.rjust(width) if name.startswith(">") else cell.ljust(width)
                    for name, cell, width in zip(self.columns, cells, widths, strict=True)
                )
                lines.append("  ".join(aligned).rstrip())
        return "\n".join(lines)


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


def for_terminal(table: Table) -> str:
    """Return the table as it fits the terminal."""
    return table.fitted(shutil.get_terminal_size().columns)


def show(table: Table) -> None:
    """Print the table to stdout, in the form that suits it."""
    click.echo(for_terminal(table) if is_terminal() else table.plain())


def count(value: float, *, exact: bool) -> str:
    """Format a number: in full, or (exact False, from 100,000 on) with three digits and a unit, as "1.23M"."""
    if exact or abs(value) < _EXACT_BELOW:
        return str(round(value))
    scaled, unit = value / _STEP, _UNITS[0]
    for larger in _UNITS[1:]:
        if abs(scaled) < _STEP - 0.5:  # a larger value would be rounded to 1000
            break
        scaled, unit = scaled / _STEP, larger
    return f"{scaled:.3g}{unit}"


def _text(cell: Cell, between: str) -> str:
    text = between.join(cell) if isinstance(cell, tuple) else cell
    return text or EMPTY
