"""The native engine under AddressSanitizer: tools/sanitize proves that it can fail, too, and has ThreadSanitizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lib.engines import need

REPO = Path(__file__).parents[2]
SANITIZE_S = 900.0


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["address"])
def test_nothing_is_told(kind: str) -> None:
    need("uring")
    argv = [str(REPO / "tools" / "sanitize"), sys.prefix, kind, "-x"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SANITIZE_S)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
