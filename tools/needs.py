"""Print the tables of docs/kernels.md, of what is required and what is optional: `tools/needs.py`."""

from __future__ import annotations

from collections.abc import Iterable

from vethd.model.needs import OPTIONAL, REQUIRED, Need


def main() -> None:
    """Print both, an empty line between them; tests/unit/test_docs.py compares them with the page."""
    print("\n\n".join(map(table, (REQUIRED, OPTIONAL))))


def table(needs: Iterable[Need]) -> str:
    """Return a table in Markdown."""
    return "\n".join(("| option or feature | since | without it |", "|---|---|---|", *map(_row, needs)))


def _row(need: Need) -> str:
    name = ": ".join(filter(None, (need.option, need.feature)))
    see = f" ([{need.see}]({need.see}.md))" if need.see else ""
    return " ".join(("|", name, f"| {need.since}".rstrip(), "|", need.without + see, "|"))


if __name__ == "__main__":
    main()
