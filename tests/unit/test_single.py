"""Programs that are installed as one file: whose a file is, and what is put is put whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vethd.clients.cni import install as cni
from vethd.clients.ip import install as ip
from vethd.clients.single import InstallError, head_of, interpreter, put


def test_head_is_short(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"#!x\n" + bytes(1 << 20))
    assert head_of(tmp_path / "long") == b"#!x\n" + bytes(4092)


def test_what_cannot_be_read_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it the program that runs, even where its name says so."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("none")
    for name in ("none", "directory", "loop", "dangling"):
        monkeypatch.setattr(sys, "argv", [str(tmp_path / name)])
        assert head_of(tmp_path / name) == b""
        assert not ip.is_ours(tmp_path / name)
        assert not cni.is_ours(tmp_path / name)


def test_each_knows_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ip.install(tmp_path, "/bin/true")
    cni.install(tmp_path)
    assert [module.is_ours(tmp_path / "ip") for module in (ip, cni)] == [True, False]
    assert [module.is_ours(tmp_path / "vethd-cni") for module in (ip, cni)] == [False, True]
    (tmp_path / "itself").write_text("#!/bin/sh\n")
    (tmp_path / "link").symlink_to("itself")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "link")])
    assert [module.is_ours(tmp_path / "itself") for module in (ip, cni)] == [True, False]


def test_interpreter_without_blanks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b").touch()
    (tmp_path / "link").symlink_to("a b")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "link"))
    with pytest.raises(InstallError, match="a b: the first line of a script cannot hold a path with a space"):
        interpreter()
    for install in (lambda: ip.install(tmp_path, "/bin/true"), lambda: cni.install(tmp_path)):
        with pytest.raises(InstallError, match="blank"):
            install()
    assert {path.name for path in tmp_path.iterdir()} == {"a b", "link"}


@pytest.mark.parametrize(
    ("error", "raised"),
    [(FileNotFoundError(2, "No such source"), InstallError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_nothing_of_half_a_file(tmp_path: Path, error: BaseException, raised: type[BaseException]) -> None:
    def contents() -> bytes:
        raise error

    target = tmp_path / "x"
    target.write_text("old")
    with pytest.raises(raised, match=f"^{target}: No such source$" if raised is InstallError else "^$"):
        put(target, contents)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "old")]


def test_put_replaces(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.symlink_to("elsewhere")
    put(target, lambda: b"new")
    assert [(path.name, path.read_bytes(), path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [
        ("x", b"new", 0o755)
    ]
    assert not target.is_symlink()
