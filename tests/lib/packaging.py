"""What the installation's tests share: `make`, apart from the make that runs the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.lib.systemd_box import REPO

MAKE_S = 300.0


def make(*arguments: str, cwd: Path = REPO) -> str:
    """Run make in the repository, or in a copy of it, to success, and return what it printed."""
    environ = {key: value for key, value in os.environ.items() if "MAKE" not in key and key != "PYTHON"}
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=MAKE_S,
        check=False,
    )
    assert done.returncode == 0, f"make {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
