"""The man pages: one for every command, and roff that groff has nothing to say about."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools import man
from vethd.control.main import cli


def test_every_command_and_option_has_its_place(tmp_path: Path) -> None:
    pages = {path.name: path.read_text() for path in man.write(tmp_path / "new")}
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert {name.partition(".")[0] for name in pages} >= set(scripts)
    assert {"vethctl.1", *(f"vethctl-{name}.1" for name in cli.commands)} <= set(pages)
    for name, command in cli.commands.items():
        text = pages[f"vethctl-{name}.1"].replace("\\-", "-")
        for param in command.params:
            for option in param.opts:
                assert not option.startswith("--") or option in text
        assert f"vethctl-{name}" in pages["vethctl.1"].replace("\\-", "-")


def test_pages_are_reproducible() -> None:
    assert list(man.pages()) == list(man.pages())


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (".TH x", "\\&.TH x"),
        ("'x", "\\&'x"),
        ("a-b", "a\\-b"),
        ("a\\b", "a\\eb"),
        ("use `ip link`", "use \\fBip link\\fR"),
    ],
)
def test_escapes(text: str, roff: str) -> None:
    assert man._escape(text) == roff


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not here to judge")
def test_groff_is_content() -> None:
    for name, text in man.pages():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww"], input=text, capture_output=True, text=True, check=True
        )
        assert (name, done.stderr) == (name, "")


def test_usage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["man"])
    with pytest.raises(SystemExit) as caught:
        man.main()
    assert caught.value.code == 2
    monkeypatch.setattr(sys, "argv", ["man", str(tmp_path)])
    man.main()
    assert f"{tmp_path}/vethctl.1" in capsys.readouterr().out
