"""The lock of vethd's Python packages, requirements.lock: writes it, reads it, and checks an environment against it.

    python tools/lock.py requirements GROUP ...    prints what pyproject.toml requires for each GROUP, for pip
    python tools/lock.py check                     tells each distribution of this environment that the lock lacks
    python tools/lock.py write                     makes the lock anew, from the newest releases (make lock)

A GROUP is `build` (the build requirements), `vethd` (the runtime requirements) or an extra. Both files are those of the
working directory.

The lock is a requirements file with hashes, of all groups at once. tools/venv gives it to pip as a constraints file, so
an environment gets the packages of its own groups alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

PROJECT = Path("pyproject.toml")
LOCK = Path("requirements.lock")

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_PYTHON = re.compile(r"Programming Language :: Python :: (3\.\d+)")


def groups(pyproject: dict[str, Any]) -> dict[str, list[str]]:
    """Return the requirements of every group, as pyproject.toml states them."""
    project = pyproject["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    return {"build": pyproject["build-system"]["requires"], project["name"]: project["dependencies"], **extras}


def pythons(pyproject: dict[str, Any]) -> list[str]:
    """Return the versions of Python that the lock is for, oldest first."""
    return _PYTHON.findall("\n".join(pyproject["project"]["classifiers"]))


def canonical(name: str) -> str:
    """Spell a distribution's name as the lock does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def unlocked(lock: str, found: Iterable[tuple[str, str]]) -> list[str]:
    """Give, as name==version, each distribution found that the lock does not have in that version."""
    pins = {(canonical(name), version) for name, version in _PIN.findall(lock)}
    return sorted(f"{name}=={version}" for name, version in found if (canonical(name), version) not in pins)


def check(name: str) -> list[str]:
    """Return the distributions of this environment that are not as locked, the project's own left out."""
    found = [(each.name, each.version) for each in metadata.distributions()]
    return unlocked(LOCK.read_text(), [each for each in found if each[0] != name])


def write(pyproject: dict[str, Any]) -> int:
    """Resolve all groups, for every Python and platform at once, by the uv of this environment; return its status.

    Only the index decides: neither the old lock nor pip's configuration has a say. The old lock stays where there is no
    solution.
    """
    uv = Path(sys.executable).with_name("uv")
    argv = [
        str(uv),
        "pip",
        "compile",
        "--quiet",
        "--universal",
        f"--python-version={pythons(pyproject)[0]}",
        "--upgrade",
    ]
    argv += ["--generate-hashes", "--no-annotate", "--custom-compile-command=make lock", f"--output-file={LOCK}", "-"]
    wanted = "\n".join(requirement for group in groups(pyproject).values() for requirement in group)
    return subprocess.run(argv, input=wanted, stdout=subprocess.DEVNULL, text=True, check=False).returncode


def main(argv: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    pyproject = tomllib.loads(PROJECT.read_text())
    match argv:
        case ["requirements", *names]:
            known = groups(pyproject)
            print(*(requirement for name in names for requirement in known[name]), sep="\n")
        case ["check"]:
            strange = check(pyproject["project"]["name"])
            for each in strange:
                print(f"{each} is not in {LOCK}", file=sys.stderr)
            return bool(strange)
        case ["write"]:
            return write(pyproject)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
