"""The native engine under ThreadSanitizer and AddressSanitizer: tools/sanitize proves that it can fail, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lib.engines import need

REPO = Path(__file__).parents[2]
SANITIZE_S = 1500.0  # its runs end after 600 s, each; they take 20 to 60


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["thread", "address"])
def test_nothing_is_told(kind: str) -> None:
    need("uring")
    argv = [str(REPO / "tools" / "sanitize"), sys.prefix, kind, "-x"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SANITIZE_S)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
