"""What the programs that are installed as one file share: whose a file is, its interpreter, putting it there."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_EXECUTABLE = 0o755
_HEAD_MAX = 4096


class InstallError(Exception):
    """Nothing was installed, and why."""


def head_of(path: Path) -> bytes:
    """Read the beginning of a file, where the mark is if it has one; b"" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_MAX)
    except OSError:
        return b""


def interpreter() -> str:
    """Return the absolute path of the interpreter that runs this, for a script's first line. Raises InstallError."""
    python = os.path.realpath(sys.executable)
    if any(char.isspace() for char in python):
        raise InstallError(f"{python}: a path with a blank cannot begin a script")
    return python


def put(target: Path, contents: Callable[[], bytes]) -> None:
    """Write an executable file, whole or not at all, over what is there. Raises InstallError.

    contents is called once the directory is known to take a file.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False) as file:
            try:
                file.write(contents())
                os.fchmod(file.fileno(), _EXECUTABLE)
                Path(file.name).rename(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InstallError(f"{target}: {error.strerror}") from error
