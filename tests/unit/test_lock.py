"""requirements.lock: it fits pyproject.toml on every Python, and what it does not hold is not installed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pip
import pytest
from packaging.requirements import Requirement

from tools import lock

REPO = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((REPO / lock.PROJECT).read_text())
LOCK = (REPO / lock.LOCK).read_text()
MACHINES = ("x86_64", "aarch64")
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"

# the whole file but for its comments: name==version, a marker maybe, and hashes; no URL, no path, no option
_ENTRY = re.compile(r"(?P<pin>[a-z0-9-]+==[^ ;\\]+(?: ; [^\\\n]+?)?)(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n")


def pinned(python: str, machine: str) -> dict[str, str]:
    """Return the version of each package that the lock holds for a Python on a machine."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, str] = {}
    for entry in _ENTRY.finditer(LOCK):
        pin = Requirement(entry["pin"])
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in found, f"{pin.name} is locked twice for Python {python} on {machine}"
            (version,) = pin.specifier
            found[pin.name] = version.version
    return found


def test_it_holds_releases_and_hashes_and_nothing_else() -> None:
    rest = _ENTRY.sub("", LOCK)
    assert [line for line in rest.splitlines() if not line.startswith("#")] == []
    assert not re.search(r"[/@]|index", rest), "a comment names a place"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", lock.pythons(PYPROJECT))
def test_it_fits_pyproject(python: str, machine: str) -> None:
    pins = pinned(python, machine)
    environment = {"python_version": python, "platform_machine": machine}
    for group, requirements in lock.groups(PYPROJECT).items():
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                version = pins.get(lock.canonical(requirement.name), "")
                assert version, f"{group}: {text} is not locked for Python {python} on {machine}: run make lock"
                assert requirement.specifier.contains(version), f"{group}: {text}, but {version} is locked"


def test_it_is_resolved_for_every_python_that_pyproject_names() -> None:
    pythons = lock.pythons(PYPROJECT)
    assert PYPROJECT["project"]["requires-python"] == f">={pythons[0]}"
    assert sorted(PYPROJECT["tool"]["uv"]["required-environments"]) == sorted(
        f"python_version == '{python}' and sys_platform == 'linux' and platform_machine == '{machine}'"
        for python in pythons
        for machine in MACHINES
    )


def test_what_is_not_locked_is_found() -> None:
    text = "a-b==1.0 \\\n    --hash=sha256:0\nc==2 ; python_version < '3.12' \\\nc==3 \\\n"
    assert lock.unlocked(text, [("A.b", "1.0"), ("c", "3"), ("c", "2")]) == []
    assert lock.unlocked(text, [("a_b", "1.1"), ("d", "1"), ("c", "4")]) == ["a_b==1.1", "c==4", "d==1"]


# --- tools/venv


def wheel(directory: Path, name: str, version: str, *requires: str) -> str:
    """Write a wheel with nothing in it but its metadata; return its entry for a lock."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Clone:
    """A project of another name, with our tools, in reach of an index that is a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wheels = root / "wheels"
        self.entries = [wheel(self.wheels, "thing", "1.0", "other>=1"), wheel(self.wheels, "other", "1.0")]
        wheel(self.wheels, "other", "2.0")
        (root / "tools").symlink_to(REPO / "tools")
        classifiers = f'["Programming Language :: Python :: {HERE}"]'
        project = f'[project]\nname = "clone"\ndependencies = []\nclassifiers = {classifiers}\n'
        extra = '[project.optional-dependencies]\nextra = ["thing"]\n'
        (root / "pyproject.toml").write_text(f"[build-system]\nrequires = []\n{project}{extra}")

    def lock(self, *entries: str) -> None:
        (self.root / "requirements.lock").write_text("".join(entries))

    def environment(self) -> Path:
        """Make an environment of this lock, whose pip is that of the tests, and is no distribution."""
        path = self.root / "venv"
        venv.create(path, with_pip=False)
        (self.packages(path) / "pip").symlink_to(Path(pip.__file__).parent)
        (path / "lock").write_bytes((self.root / "requirements.lock").read_bytes())
        return path

    def packages(self, path: Path) -> Path:
        return path / "lib" / f"python{HERE}" / "site-packages"

    def run(self, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "LOCK": "requirements.lock"}
        env |= {"PYTHON": sys.executable} | environ
        return subprocess.run(argv, cwd=self.root, env=env, capture_output=True, text=True, check=False)

    def installed(self, path: Path) -> list[str]:
        return sorted(each.name.removesuffix(".dist-info") for each in self.packages(path).glob("*.dist-info"))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_what_is_locked_is_installed_and_nothing_newer(clone: Clone) -> None:
    clone.lock(*clone.entries)
    path = clone.environment()
    done = clone.run("tools/venv", "venv", "extra")
    assert (done.returncode, done.stderr) == (0, "")
    assert clone.installed(path) == ["other-1.0", "thing-1.0"]


@pytest.mark.parametrize("what", ["altered hash", "no hash", "not locked"])
def test_what_is_not_as_locked_is_refused_whole(clone: Clone, what: str) -> None:
    thing, other = clone.entries
    if what == "altered hash":
        digit = other[-2]
        other = f"{other[:-2]}{'0' if digit != '0' else '1'}\n"
    elif what == "no hash":
        other = other.partition(" ")[0] + "\n"
    else:
        other = ""
    clone.lock(thing, other)
    path = clone.environment()
    done = clone.run("tools/venv", "venv", "extra")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("setup: pip could not install into venv (above)")
    assert clone.installed(path) == []


def test_a_package_that_nobody_locked_is_told(clone: Clone) -> None:
    clone.lock(*clone.entries)
    path = clone.environment()
    (clone.packages(path) / "stray-3.dist-info").mkdir()
    (clone.packages(path) / "stray-3.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: stray\nVersion: 3\n"
    )
    done = clone.run("tools/venv", "venv", "extra")
    assert (done.returncode, done.stderr) == (
        1,
        "stray==3 is not in requirements.lock\nsetup: venv holds what requirements.lock does not (above)\n",
    )


def test_an_environment_that_cannot_be_finished_is_not_left(clone: Clone) -> None:
    """Of another lock: it is made anew, and the locked pip is not to be had."""
    clone.lock(f"pip=={pip.__version__} \\\n    --hash=sha256:{'0' * 64}\n", *clone.entries)
    path = clone.environment()
    (path / "lock").write_text("another")
    done = clone.run("tools/venv", "venv", "extra")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("setup: pip could not install into venv (above)")
    assert not path.exists()


OLD = "vethd needs Python 3.11 or later, and {} is 3.10: name another interpreter with make PYTHON=..."
NEW = (
    "requirements.lock is for Python 3.11,3.12,3.13, and {} is 3.14:"
    " name another interpreter with make PYTHON=..., or see docs/dependencies.md (make lock)"
)


@pytest.mark.parametrize(
    ("version", "locked", "sentence"),
    [("3.10", "requirements.lock", OLD), ("3.10", "", OLD), ("3.14", "requirements.lock", NEW)],
)
@pytest.mark.parametrize("program", ["venv", "wheels"])
def test_a_python_that_does_not_fit(tmp_path: Path, program: str, version: str, locked: str, sentence: str) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\necho {version}\n")
    python.chmod(0o755)
    env = os.environ | {"PYTHON": str(python), "LOCK": locked}
    argv = [str(REPO / "tools" / program), str(tmp_path / "made"), *(["dev"] if program == "venv" else [])]
    done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"setup: {sentence.format(python)}\n"
    assert list(tmp_path.iterdir()) == [python]


def test_a_python_that_is_none(tmp_path: Path) -> None:
    env = os.environ | {"PYTHON": "/nowhere/python3", "LOCK": "requirements.lock"}
    argv = [str(REPO / "tools" / "venv"), str(tmp_path / "made"), "dev"]
    done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("setup: /nowhere/python3 cannot be run: name another interpreter")
    assert list(tmp_path.iterdir()) == []
