"""`vethd-run --install`: the drop-ins and wrappers that it writes, and that it takes away only its own."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from vethd.clients.run import install
from vethd.clients.run.install import behind, commands_of, files, is_ours, main, places
from vethd.clients.single import InstallError

PROGRAM = "/usr/bin/vethd-run"
DOCKER = """\
[Service]
Type=notify
ExecStart=/usr/sbin/dockerd -H fd:// \\
  $DOCKER_OPTS
ExecReload=/bin/kill -s HUP $MAINPID
"""


def unit(root: Path, name: str, text: str, directory: str = "usr/lib/systemd/system") -> None:
    path = root / directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_drop_in(tmp_path: Path) -> None:
    unit(tmp_path, "docker.service", DOCKER)
    (file,) = files("docker", PROGRAM, tmp_path)
    assert file.path == tmp_path / "etc/systemd/system/docker.service.d/vethd.conf"
    lines = file.text.splitlines()
    assert lines[-2:] == ["ExecStart=", "ExecStart=/usr/bin/vethd-run /usr/sbin/dockerd -H fd://    $DOCKER_OPTS"]
    assert {"Wants=vethd.service", "After=vethd.service"} < set(lines)


def test_the_administrators_unit_counts(tmp_path: Path) -> None:
    unit(tmp_path, "docker.service", DOCKER)
    unit(tmp_path, "docker.service", "[Service]\nExecStart=-/opt/dockerd\n", "etc/systemd/system")
    (file,) = files("docker", PROGRAM, tmp_path)
    assert file.text.endswith("\nExecStart=-/usr/bin/vethd-run /opt/dockerd\n")


def test_every_unit_of_a_service_that_is_there(tmp_path: Path) -> None:
    unit(tmp_path, "lxc@.service", "[Service]\nExecStart=/usr/bin/lxc-start -F -n %i\n")
    assert [file.path.parent.name for file in files("lxc", PROGRAM, tmp_path)] == ["lxc@.service.d"]


def test_commands() -> None:
    assert commands_of("ExecStart=/a\nExecStart=\nExecStart = /b c\nExecStartPre=/d\n") == ["/b c"]
    assert behind("+!/a b", "/run") == "+!/run /a b"
    with pytest.raises(InstallError):
        behind("@/a b", "/run")


def test_networkd(tmp_path: Path) -> None:
    """Its unit restricts calls, and its user is not root."""
    unit(tmp_path, "systemd-networkd.service", "[Service]\nExecStart=!!/lib/systemd/systemd-networkd\n")
    (file,) = files("networkd", PROGRAM, tmp_path)
    assert "\nSystemCallFilter=seccomp pidfd_getfd process_vm_readv process_vm_writev\n" in file.text
    assert "\nSupplementaryGroups=vethd\n" in file.text
    assert file.text.endswith("\nExecStart=!!/usr/bin/vethd-run /lib/systemd/systemd-networkd\n")


def test_podman(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/podman").mkdir(parents=True)
    (tmp_path / "usr/lib/podman/netavark").touch()
    wrapper, conf = files("podman", PROGRAM, tmp_path)
    assert wrapper.text.endswith('\nexec /usr/bin/vethd-run /usr/lib/podman/netavark "$@"\n')
    assert (wrapper.mode, [wrapper.path, conf.path]) == (0o755, places("podman", tmp_path))
    directories = tomllib.loads(conf.text)["engine"]["helper_binaries_dir"]
    assert directories[0] == "/usr/local/lib/vethd/podman"
    assert "/usr/lib/podman" in directories


def test_podman_with_directories_of_the_administrators(tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/netavark").touch()
    (tmp_path / "etc/containers").mkdir(parents=True)
    (tmp_path / "etc/containers/containers.conf").write_text('[engine]\nhelper_binaries_dir = ["/opt"]\n')
    _, conf = files("podman", PROGRAM, tmp_path)
    assert tomllib.loads(conf.text)["engine"]["helper_binaries_dir"] == ["/usr/local/lib/vethd/podman", "/opt"]


@pytest.mark.parametrize("name", install.NAMES)
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(InstallError):
        files(name, PROGRAM, tmp_path)


def test_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    unit(tmp_path, "docker.service", DOCKER)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    real_files, real_places = files, places
    monkeypatch.setattr(install, "files", lambda name, program: real_files(name, program, tmp_path))
    monkeypatch.setattr(install, "places", lambda name: real_places(name, tmp_path))
    assert main(["--dry-run", "--install", "docker"]) == 0
    assert "ExecStart=" in capsys.readouterr().out
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    for _ in range(2):
        assert main(["--install", "docker"]) == 0
    (made,) = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert is_ours(made, "docker")
    assert made.stat().st_mode & 0o777 == 0o644
    assert main(["--uninstall", "docker"]) == 0
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not made.parent.exists()
    made.parent.mkdir()
    made.write_text("[Service]\n")
    for action in ("--install", "--uninstall"):
        assert main([action, "docker"]) == 1
    assert made.read_text() == "[Service]\n"


@pytest.mark.parametrize(
    "args", [["--install"], ["--install", "nothing"], ["--dry-run"], ["--install", "docker", "lxc"]]
)
def test_mistakes(args: list[str]) -> None:
    assert main(args) == 2
