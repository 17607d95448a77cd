"""The native engine under ThreadSanitizer and AddressSanitizer: tools/sanitize proves that it can fail, too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lib.engines import need

pytestmark = pytest.mark.aside

REPO = Path(__file__).parents[2]
SANITIZE_S = 2400.0  # its runs end after 600 s, each; they take 20 to 90
SANITIZERS = ("thread", "address")

Run = tuple["subprocess.Popen[bytes]", Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Run both at once: either is of one thread most of the time; process and what it says, by kind."""
    need("native")
    directory = tmp_path_factory.mktemp("sanitizers")
    with ExitStack() as stack:
        found = {}
        for kind in SANITIZERS:
            argv = [str(REPO / "tools" / "sanitize"), sys.prefix, kind, "-x"]
            said = directory / kind
            with said.open("wb") as file:
                process = stack.enter_context(subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT))
            found[kind] = process, said
        yield found


@pytest.mark.heavy
@pytest.mark.parametrize("kind", SANITIZERS)
def test_nothing_is_told(runs: dict[str, Run], kind: str) -> None:
    process, said = runs[kind]
    assert process.wait(SANITIZE_S) == 0, said.read_text()
