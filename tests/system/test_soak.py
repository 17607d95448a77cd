"""A short soak on each engine: what `make soak` does for an hour, and all of its checks."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.soak.run import soak

SECONDS = 30.0


@pytest.mark.heavy
def test_soak(root: None, engine: str, tmp_path: Path) -> None:  # noqa: ARG001 - the check that we may
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().getrandbits(32))
    report = soak(engine, seed, SECONDS, tmp_path / "soak")
    print(report.text())
    left = {path.name: path.read_text()[-6000:] for path in sorted((tmp_path / "soak").glob("*.txt"))}
    assert not report.wrong, "\n".join([report.text(), *(f"--- {name}\n{text}" for name, text in left.items())])
