"""Print tables: fitted to the width of a terminal, otherwise as plain, aligned, complete lines for grep and awk."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import rich.table

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
        heads = [name.removeprefix(">") for name in self.columns]
        lines = [heads, *([_one_cell(cell, ",") for cell in row] for row in self.rows)]
        widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if name.startswith(">") else cell.ljust(width)
                for name, cell, width in zip(self.columns, line, widths, strict=True)
            ).rstrip()
            for line in lines
        )

    def rich(self) -> rich.table.Table:
        """Return the table for rich, which fits it to a terminal; long cells are folded, not cut."""
        from rich.table import Table as RichTable  # noqa: PLC0415  its import takes 50 ms, and a pipe does not need it
        from rich.text import Text  # noqa: PLC0415

        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for name in self.columns:
            justify = "right" if name.startswith(">") else "left"
            head = name.removeprefix(">").replace("-", "\n")
            table.add_column(Text(head), overflow="fold", justify=justify, vertical="bottom")  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*(Text(_one_cell(cell, "\n")) for cell in row))
        return table


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


def show(table: Table) -> None:
    """Print the table to stdout, in the form that suits it."""
    if not is_terminal():
        click.echo(table.plain())
        return
    from rich.console import Console  # noqa: PLC0415  as above

    Console().print(table.rich())


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


def _one_cell(cell: Cell, between: str) -> str:
    text = between.join(cell) if isinstance(cell, tuple) else cell
    return text or EMPTY
