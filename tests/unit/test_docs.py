"""The pages: every link to a file, and to a heading of a page, leads somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.lib.netns import command

REPO = Path(__file__).parents[2]
PAGES = sorted([REPO / "README.md", *(REPO / "docs").glob("*.md")])
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them; no page here has a heading twice."""
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """Return the relative links of a page that lead to no file, or to no heading of it."""
    wrong = []
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        if re.match(r"[a-z]+:", link):
            continue
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(link)
    return wrong


def test_the_picture_is_what_its_tool_draws(tmp_path: Path) -> None:
    file = tmp_path / "overview.svg"
    command([sys.executable, str(REPO / "tools" / "diagram.py"), str(file)])
    assert file.read_text(encoding="utf-8") == (REPO / "docs" / "img" / "overview.svg").read_text(encoding="utf-8")


def test_the_kernels_page_has_the_tables_of_the_code() -> None:
    page = (REPO / "docs" / "kernels.md").read_text(encoding="utf-8")
    tables = [table for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE) if table.startswith("| option")]
    assert "\n".join(tables) == command([sys.executable, str(REPO / "tools" / "needs.py")])


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# At the `top`: 1.5\n[a](none.md) ![b](no/picture.svg) [c](page.md#at-the-top-15) [d](#there)"
        " [e](page.md#away) [f](https://example.org/x.md#y) [g](#at-the-top-15) [h](page.md)"
    )
    assert broken(page) == ["none.md", "no/picture.svg", "#there", "page.md#away"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []
