"""Shared by the programs that are installed as one file: read a file's mark, find the interpreter, write the file."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_EXECUTABLE = 0o755
_HEAD_MAX = 4096


class InstallError(Exception):
    """Nothing was installed; the exception's text is the reason."""


def head_of(path: Path) -> bytes:
    """Return the beginning of a file, which holds the mark if there is one; b"" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_MAX)
    except OSError:
        return b""


def interpreter() -> str:
    """Return the absolute path of the running interpreter, for a script's first line. Raises InstallError."""
    python = os.path.realpath(sys.executable)
    if any(char.isspace() for char in python):
        raise InstallError(f"{python}: the first line of a script cannot hold a path with a space")
    return python


def put(target: Path, contents: Callable[[], bytes], mode: int = _EXECUTABLE) -> None:
    """Write a file atomically, over an existing one; it is executable if not told otherwise. Raises InstallError.

    contents is called after a temporary file was made in the directory.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False) as file:
            try:
                file.write(contents())
                os.fchmod(file.fileno(), mode)
                Path(file.name).rename(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InstallError(f"{target}: {error.strerror}") from error
