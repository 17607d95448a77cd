"""python -m tests.fuzz TARGET SECONDS: have atheris look for bytes that break a target.

What it finds new is kept in build/fuzz/TARGET, for the next run; what breaks the target is written there as crash-*:
once it is mended it belongs into the corpus. Python's coverage leads it; the native engine has none, and follows the
model.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris

from tests.fuzz.mutate import CORPUS, TARGETS

LONGEST = 16 << 10


def main() -> None:
    """Fuzz."""
    target, seconds = sys.argv[1], int(sys.argv[2])
    if target not in TARGETS:
        sys.exit(f"fuzz: no target {target}: {' '.join(TARGETS)}")
    with atheris.instrument_imports(include=["vethd", "msgspec", "tomllib"]):
        module = importlib.import_module(f"tests.fuzz.{target}")
    kept = Path("build", "fuzz", target)
    kept.mkdir(parents=True, exist_ok=True)
    # one_input() is all that runs: nothing to wait for, so a long time is a finding
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=20", f"-artifact_prefix={kept}/"]
    atheris.Setup([sys.argv[0], *options, str(kept), str(CORPUS / target)], module.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
