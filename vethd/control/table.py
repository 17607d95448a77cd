"""Print tables: on a terminal fitted to its width, otherwise as plain, aligned, complete lines for grep and awk."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass, field

import click

EMPTY = "-"
Cell = str | tuple[str, ...]

_PIECE = re.compile(r"(?:`[^`]*`|\S)+")
_INDENT = 2
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

        If plain() is too wide, heads and lists take several lines. If that is too wide, each row becomes a block with
        an entry for each column: its name and the cell, wrapped().
        """
        heads = self._heads()
        stacked = [[_text(cell, "\n").split("\n") for cell in row] for row in self.rows]
        for text in (self.plain(), self._aligned([name.split("-") for name in heads], stacked)):
            if max(map(len, text.splitlines())) <= width:
                return text
        if not self.rows:
            return wrapped("", "  ".join(heads), width)
        longest = max(map(len, heads))
        return "\n\n".join(
            "\n".join(
                wrapped(f"{head:<{longest}}  ", _text(cell, ", "), width) for head, cell in zip(heads, row, strict=True)
            )
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


def wrapped(head: str, text: str, width: int) -> str:
    """Return head and text in lines of at most width columns.

    A word, or a command in backquotes that fits, stays in one piece. The text's further lines begin below its first
    one, or two columns from the left if a piece does not fit there. Only a word that is longer than a line exceeds it.
    """
    if len(head) + len(text) <= width:
        return head + text
    pieces: list[str] = []
    for piece in _PIECE.findall(text):
        pieces += [piece] if len(piece) <= width - _INDENT else piece.split()
    indent = len(head) if max(map(len, pieces), default=0) <= width - len(head) else _INDENT
    lines, start = [head], len(head)
    for piece in pieces:
        space = " " * (len(lines[-1]) > start)
        if len(lines[-1]) + len(space) + len(piece) <= width:
            lines[-1] += space + piece
        else:
            lines.append(" " * indent + piece)
            start = indent
    return "\n".join(line.rstrip() for line in lines)


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


def can_clear() -> bool:
    """Return whether stdout is a terminal that knows control sequences."""
    return is_terminal() and os.environ.get("TERM", "dumb") != "dumb"


def width() -> int:
    """Return the terminal's number of columns."""
    return shutil.get_terminal_size().columns


def show(table: Table) -> None:
    """Print the table to stdout, in the form that suits it."""
    click.echo(table.fitted(width()) if is_terminal() else table.plain())


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
