"""vethctl doctor on programs: each with a PATH and files made for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vethd.clients.cni import install as cni_install
from vethd.clients.ip import install as ip_install
from vethd.control import programs
from vethd.kernel.probe import Check


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH, and nothing of this machine's elsewhere."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(programs, "CNI_DIRECTORIES", (tmp_path / "cni", tmp_path / "cni2"))
    monkeypatch.setattr(programs, "CNI_CONFIG", tmp_path / "net.d")
    monkeypatch.setattr(programs, "SYSTEMD", tmp_path / "systemd")
    return directory


def put(directory: Path, name: str, text: str = "#!/bin/sh\n") -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def is_note(check: Check, detail: str, advice: str) -> bool:
    assert (check.ok, check.required) == (False, False)
    assert detail in check.detail
    assert advice in check.advice
    return True


def test_nothing_is_there(path: Path) -> None:
    assert path.exists()
    for check in programs.programs():
        assert is_note(check, "", "")
        assert check.advice


def test_ip(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert is_note(programs.ip(), "no ip(8)", "install iproute2")
    real = put(path, "ip")
    assert is_note(programs.ip(), f"ip is {real}, the real ip", "`vethd-ip install DIR`")
    prefix = tmp_path / "prefix"
    (prefix / "ip").mkdir(parents=True)
    put(prefix / "ip", "ip")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "prefix", str(prefix))
        assert is_note(programs.ip(), "the real ip", f"PATH={prefix}/ip:$PATH")
    ours = tmp_path / "ours"
    ours.mkdir()
    ip_install.install(ours, str(real))
    monkeypatch.setenv("PATH", f"{ours}:{path}")
    check = programs.ip()
    assert (check.ok, check.detail) == (True, f"ip is {ours}/ip: `ip link add type veth` uses vethd")
    text = (ours / "ip").read_bytes()
    (ours / "ip").write_bytes(b"#!/gone/python3 -IS\n" + text.partition(b"\n")[2])
    assert is_note(programs.ip(), "made for /gone/python3, which is gone", f"`vethd-ip install {ours}`")
    monkeypatch.setenv("PATH", f"{path}:{ours}")  # behind the real one it is of no use
    assert not programs.ip().ok


def test_cni(path: Path, tmp_path: Path) -> None:
    assert is_note(programs.cni(), "no container runtime, no plugin", "install podman")
    podman = put(path, "podman")
    assert is_note(programs.cni(), f"{podman}, no plugin", f"`vethd-cni install {tmp_path}/cni`")
    (tmp_path / "cni2").mkdir()
    assert is_note(programs.cni(), "no plugin", f"`vethd-cni install {tmp_path}/cni2`")
    plugin = cni_install.install(tmp_path / "cni2")
    assert is_note(programs.cni(), f"{plugin}, no network that names it", '"type": "vethd-cni"')
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-other.conflist").write_text('{"plugins": [{"type": "bridge"}]}')
    assert not programs.cni().ok
    network = tmp_path / "net.d" / "87-podman.conflist"
    network.write_text('{"plugins": [{"type": "vethd-cni"}]}')
    check = programs.cni()
    assert (check.ok, check.detail) == (True, f"{podman}, {plugin}, {network}")
    podman.unlink()
    assert is_note(programs.cni(), "none of podman, containerd, crio on PATH", "install podman")


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("mininet", "mn"),
        ("nspawn", "systemd-nspawn"),
        ("lxc", "lxc-start"),
        ("qemu", f"qemu-system-{os.uname().machine}"),
    ],
)
def test_a_program_is_there_or_not(path: Path, name: str, program: str) -> None:
    look = getattr(programs, name)
    assert is_note(look(), program, "apt-get install")
    found = put(path, program)
    check = look()
    assert check.ok
    assert str(found) in check.detail


@pytest.mark.parametrize(
    ("answer", "ok", "words"),
    [
        ("LoadState=not-found\nFileDescriptorStoreMax=0\n", False, "vethd.service is not-found"),
        ("LoadState=loaded\nFileDescriptorStoreMax=0\n", False, "a restart loses the links"),
        (
            "LoadState=loaded\nFileDescriptorStoreMax=16384\nNFileDescriptorStore=7\n",
            True,
            "stores 7 of at most 16384 descriptors",
        ),
        ("", False, "vethd.service is unknown"),
    ],
)
def test_fd_store(path: Path, tmp_path: Path, answer: str, *, ok: bool, words: str) -> None:
    assert is_note(programs.fd_store(), "systemd does not run here", "vethd --replace")
    (tmp_path / "systemd").mkdir()
    assert is_note(programs.fd_store(), "systemctl failed", "")
    put(path, "systemctl", f"#!/bin/sh\nprintf '%s' '{answer}'\n")
    check = programs.fd_store()
    assert (check.ok, words in check.detail) == (ok, True)
    assert bool(check.advice) != ok


def test_systemctl_that_fails(path: Path, tmp_path: Path) -> None:
    (tmp_path / "systemd").mkdir()
    put(path, "systemctl", "#!/bin/sh\nexit 1\n")
    assert is_note(programs.fd_store(), "systemctl failed", "")
