"""What `make install` copies and `make uninstall` takes away: ours, all of it, and nothing of anybody else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tools import installed
from tools.installed import Obstacle, install, uninstall

REPO = Path(__file__).parents[2]
VARIABLES = (
    "bindir venvdir ipdir cnidir mandir docdir sysconfdir unitdir sysusersdir"
    " bashcompletiondir zshcompletiondir fishcompletiondir"
)
MANIFEST = "/usr/lib/vethd/manifest"
CONFIG = "etc/vethd/vethd.toml"
PROGRAM = "usr/bin/vethd"


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def content(root: Path) -> dict[str, str]:
    """Return the text of every file, and "/" for every directory that is empty."""
    found = {str(path.relative_to(root)): path for path in root.rglob("*")}
    return {
        name: path.read_text() if path.is_file() else "/"
        for name, path in found.items()
        if path.is_file() or not any(path.iterdir())
    }


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    root = put(tmp_path / "stage", {PROGRAM: "program", CONFIG: "default", "usr/lib/vethd/old/module": "old"})
    (root / "usr/bin/link").symlink_to("vethd")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return put(tmp_path / "root", {"usr/bin/other": "somebody's"})


def test_there_and_back(stage: Path, root: Path) -> None:
    assert install(stage, str(root), MANIFEST) == []
    assert content(root).keys() == content(stage).keys() | {"usr/bin/other", MANIFEST[1:]}
    assert (root / "usr/bin/link").readlink() == Path("vethd")
    assert uninstall(str(root), MANIFEST) == []
    assert content(root) == {"usr/bin/other": "somebody's"}
    assert sorted(path.name for path in root.rglob("*")) == ["bin", "other", "usr"]


def test_twice_is_as_once(stage: Path, root: Path) -> None:
    install(stage, str(root), MANIFEST)
    first = content(root)
    install(stage, str(root), MANIFEST)
    assert content(root) == first
    uninstall(str(root), MANIFEST)
    assert content(root) == {"usr/bin/other": "somebody's"}


def test_newer_version_takes_the_place_of_the_older(stage: Path, root: Path) -> None:
    install(stage, str(root), MANIFEST)
    (stage / "usr/lib/vethd/old/module").unlink()
    (stage / "usr/lib/vethd/old").rmdir()
    put(stage, {PROGRAM: "newer", CONFIG: "newer default", "usr/lib/vethd/new/module": "new"})
    assert install(stage, str(root), MANIFEST) == []
    assert content(root).keys() == content(stage).keys() | {"usr/bin/other", MANIFEST[1:]}
    assert (root / PROGRAM).read_text() == "newer"
    assert (root / CONFIG).read_text() == "newer default"
    assert not (root / "usr/lib/vethd/old").exists()
    uninstall(str(root), MANIFEST)
    assert content(root) == {"usr/bin/other": "somebody's"}


def test_config_that_was_edited_stays(stage: Path, root: Path) -> None:
    install(stage, str(root), MANIFEST)
    put(root, {CONFIG: "mine"})
    put(stage, {CONFIG: "newer default"})
    assert install(stage, str(root), MANIFEST) == [f"/{CONFIG}"]
    assert uninstall(str(root), MANIFEST) == [f"/{CONFIG}"]
    assert content(root) == {"usr/bin/other": "somebody's", CONFIG: "mine"}


def test_config_that_was_there_before_stays(stage: Path, root: Path) -> None:
    put(root, {CONFIG: "default"})  # as ours, but not by us
    assert install(stage, str(root), MANIFEST) == [f"/{CONFIG}"]
    assert uninstall(str(root), MANIFEST) == []
    assert content(root) == {"usr/bin/other": "somebody's", CONFIG: "default"}


def test_what_was_put_in_our_place_since_stays(stage: Path, root: Path) -> None:
    install(stage, str(root), MANIFEST)
    (root / "usr/bin/link").unlink()
    put(root, {"usr/bin/link": "mine", "usr/lib/vethd/old/mine": "mine"})
    assert uninstall(str(root), MANIFEST) == ["/usr/bin/link"]
    assert content(root) == {
        "usr/bin/other": "somebody's",
        "usr/bin/link": "mine",
        "usr/lib/vethd/old/mine": "mine",
    }


@pytest.mark.parametrize("path", [PROGRAM, "usr/bin/link", "usr/lib/vethd"])
def test_somebody_elses_in_our_place(stage: Path, root: Path, path: str) -> None:
    put(root, {path: "somebody's"})
    before = content(root)
    with pytest.raises(Obstacle, match=f"/{path} exists and is not from"):
        install(stage, str(root), MANIFEST)
    assert content(root) == before


def test_an_installation_that_broke_off_is_taken_away(stage: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Path] = []

    def full(source: Path, target: Path) -> None:
        if done:
            raise OSError(28, "No space left on device")
        done.append(target)
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(installed, "replace", full)
    with pytest.raises(OSError, match="No space"):
        install(stage, str(root), MANIFEST)
    assert done[0].exists()
    assert uninstall(str(root), MANIFEST) == []
    assert content(root) == {"usr/bin/other": "somebody's"}


def test_nothing_to_uninstall(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DESTDIR", str(root))
    monkeypatch.setattr("sys.argv", ["installed.py", "uninstall", MANIFEST])
    assert installed.main() == 1
    assert "nothing was installed under this prefix" in capsys.readouterr().err
    put(root, {MANIFEST[1:]: "[]"})
    assert installed.main() == 1
    assert "cannot be read as a manifest" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["installed.py"])
    assert installed.main() == 2


@pytest.mark.parametrize(
    ("interpreter", "prefix", "words"),
    [
        ("/home/me/.pyenv/bin/python3.12", "/usr", "the service cannot see /home/me/.pyenv/bin/python3.12"),
        ("/usr/bin/python3", "/a b", "a path with a blank cannot begin a script: /a b"),
    ],
)
def test_what_could_not_run_is_not_laid_out(tmp_path: Path, interpreter: str, prefix: str, words: str) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\necho {interpreter}\n")
    python.chmod(0o755)
    (tmp_path / "packages").mkdir()
    argv = [REPO / "tools" / "stage", tmp_path / "stage", tmp_path / "packages"]
    layout = dict.fromkeys(VARIABLES.split(), prefix)
    environ = {**os.environ, **layout, "PYTHON": str(python)}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"install: {words}")
    assert list((tmp_path / "stage").iterdir()) == []
