"""The table of differences: every entry explained to users, every entry used by a case."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.lib.differences import DIFFERENCES, SHOWN

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "differences.md"


def used() -> set[str]:
    """Return the ids that cases ask for by `differs("...")`, and those of the values that test_shown.py compares."""
    found = set(SHOWN)
    for file in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "differs":
                (argument,) = node.args
                assert isinstance(argument, ast.Constant), f"{file.name}:{node.lineno}: an id is spelled out"
                found.add(str(argument.value))
    return found


def test_every_difference_is_used() -> None:
    assert used() == set(DIFFERENCES)


def test_every_difference_is_explained() -> None:
    page = PAGE.read_text()
    assert [name for name in DIFFERENCES if name not in page] == []


def test_every_difference_is_a_sentence() -> None:
    for sentence in DIFFERENCES.values():
        assert sentence.endswith(".")
        assert "\n" not in sentence
