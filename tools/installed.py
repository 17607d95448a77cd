"""Installs the files that tools/stage laid out, and uninstalls exactly these files.

    installed.py install STAGE MANIFEST
    installed.py uninstall MANIFEST

$DESTDIR goes in front of every path. The manifest lists the directories that were made and the files that were written,
with their digests. If a file that is not in the manifest is in the place of one of ours, nothing is installed. A file
that was changed after its installation is kept: on removal any such file, on installation only configuration files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

USAGE = 2
CONFIG = "/etc/vethd/"


class Manifest(NamedTuple):
    """The installed directories that did not exist before, and the installed files with their digests."""

    directories: list[str]
    files: dict[str, str]


class Obstacle(Exception):  # noqa: N818 - the reason is an obstacle, not an error
    """The reason why nothing was changed."""


def digest(path: Path) -> str:
    """Return a text for the content of a path, which differs if the content differs; "" if nothing is there."""
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "a directory" if path.exists() else ""


def read(path: Path) -> Manifest:
    """Read a manifest; an empty one if there is no file. Raises Obstacle if the file is not a manifest."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(known["directories"], known["files"])
    except (FileNotFoundError, NotADirectoryError):
        return Manifest([], {})
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Obstacle(f"{path} cannot be read as a manifest ({error})") from error


def install(stage: Path, destdir: str, manifest: str) -> list[str]:
    """Install the files in stage, over an older installation if there is one, and return the files that were kept.

    Raises Obstacle before anything is written, and OSError.
    """
    old = read(at(destdir, manifest))
    found = sorted(f"/{path.relative_to(stage)}" for path in stage.rglob("*"))
    directories = [path for path in found if digest(at(stage, path)) == "a directory"]
    files = {path: digest(at(stage, path)) for path in found if path not in set(directories)}
    strangers = [path for path in files if path not in old.files and not is_config(path) and digest(at(destdir, path))]
    strangers += [path for path in directories if digest(at(destdir, path)) and not at(destdir, path).is_dir()]
    if strangers:
        raise Obstacle(f"{strangers[0]} exists and is not from `make install`: move it away first")

    kept = [path for path in files if is_config(path) and is_changed(destdir, path, old.files.get(path, ""))]
    ours = {path: old.files.get(path, "") if path in kept else known for path, known in files.items()}
    ours = {path: known for path, known in ours.items() if known}
    gone = {path: known for path, known in old.files.items() if path not in files}
    made = [path for path in directories if path in old.directories or not at(destdir, path).exists()]
    left = [path for path in old.directories if path not in directories]
    for path in directories:
        at(destdir, path).mkdir(parents=True, exist_ok=True)
    # before the files, so that the files of an interrupted installation can be uninstalled
    write(at(destdir, manifest), Manifest(made + left, ours | gone))
    for path in ours:
        if path not in kept:
            replace(at(stage, path), at(destdir, path))
    remove_files(destdir, gone)
    remove_directories(destdir, left)
    write(at(destdir, manifest), Manifest(made, ours))
    return kept


def uninstall(destdir: str, manifest: str) -> list[str]:
    """Remove the files that install() wrote, and return those kept because they changed. Raises Obstacle, OSError."""
    path = at(destdir, manifest)
    if not path.exists():
        raise Obstacle(f"{path} does not exist: nothing was installed under this prefix")
    known = read(path)
    kept = remove_files(destdir, known.files)
    path.unlink()
    remove_directories(destdir, known.directories)
    return kept


def remove_files(destdir: str, files: dict[str, str]) -> list[str]:
    """Remove the files that have not changed since their installation; return the others."""
    kept = [path for path, known in files.items() if is_changed(destdir, path, known)]
    for path in set(files).difference(kept):
        at(destdir, path).unlink(missing_ok=True)
    return kept


def remove_directories(destdir: str, directories: list[str]) -> None:
    """Remove the directories that are empty, innermost first."""
    for path in sorted(directories, reverse=True):
        try:
            at(destdir, path).rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.ENOTDIR):
                raise


def is_changed(destdir: str, path: str, known: str) -> bool:
    """Return whether the content of a path differs from what was installed; a missing file does not."""
    return digest(at(destdir, path)) not in ("", known)


def is_config(path: str) -> bool:
    """Return whether a file is configuration, which users edit."""
    return CONFIG in path


def replace(source: Path, target: Path) -> None:
    """Put a file in its place in one step: a running daemon finds either the old or the new file."""
    beside = target.with_name(f".{target.name}.new")
    beside.unlink(missing_ok=True)
    shutil.copy2(source, beside, follow_symlinks=False)
    beside.replace(target)


def write(path: Path, known: Manifest) -> None:
    """Write a manifest, completely or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(known._asdict(), indent=0), encoding="utf-8")
    beside.replace(path)


def at(root: str | Path, path: str) -> Path:
    """Return an absolute path below a root."""
    return Path(f"{root}{path}")


def main() -> int:
    """Execute the command line; print one sentence on stderr if it fails."""
    destdir = os.environ.get("DESTDIR", "")
    try:
        match sys.argv[1:]:
            case ["install", stage, manifest]:
                kept = install(Path(stage), destdir, manifest)
            case ["uninstall", manifest]:
                kept = uninstall(destdir, manifest)
            case _:
                sys.stderr.write(__doc__ or "")
                return USAGE
    except (Obstacle, OSError) as error:
        sys.stderr.write(f"install: {error}\n")
        return 1
    for path in kept:
        sys.stdout.write(f"{destdir}{path}: kept, because it was changed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
