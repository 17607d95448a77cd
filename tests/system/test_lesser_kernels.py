"""Kernels that lack an option or are old, imitated at the one call whose result differs there."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.lib import House
from tests.lib.site import Place
from vethd.kernel import owner, probe
from vethd.kernel.births import Nursery
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.uapi import TUNGETDEVNETNS, TUNSETCARRIER
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec

DAEMON = (sys.executable, "-m", "vethd.daemon.main")
DOCTOR = (sys.executable, "-m", "vethd.control.main", "doctor", "--json")
WITHOUT_IOCTL = """
import os, sys
from tests.lib.seccomp import forbid_ioctl
forbid_ioctl(int(sys.argv[1]), int(sys.argv[2]))
os.execvp(sys.argv[3], sys.argv[3:])
"""
NO_NODES = "mount -t tmpfs tmpfs /dev/net -o mode=755"
MKNOD = "mknod -m 666 /dev/net/tun c 10 200"


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    with closing(Nursery()) as it:
        yield it


def test_without_user_namespaces_every_uid_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONFIG_USER_NS=n: there is no /proc/self/uid_map."""

    read_text = Path.read_text

    def no_map(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name in ("uid_map", "gid_map"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", no_map)
    owner._stranger.cache_clear()
    try:
        assert [owner._stranger(kind) for kind in ("uid", "gid")] == [owner.NOBODY] * 2
    finally:
        owner._stranger.cache_clear()


def test_without_packet_schedulers_a_pair_keeps_its_default_queue(
    house: House, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONFIG_NET_SCHED=n: rtnetlink has no RTM_NEWQDISC. Doctor names the option; any other error is still one."""
    there = house.net()

    def refuse(code: int) -> None:
        def noqueue(_self: Rtnl, _ifindex: int) -> None:
            raise VethError(code, "noqueue")

        monkeypatch.setattr(Rtnl, "noqueue", noqueue)

    refuse(errno.EOPNOTSUPP)
    tap, _ = nursery.birth(LinkSpec(name="va"), there.fd)
    with closing(tap):
        assert not nursery.noqueue(tap)
    (check,) = [check for check in probe.probe() if check.name == "qdisc noqueue"]
    assert (check.ok, check.required, "CONFIG_NET_SCHED" in check.detail) == (False, False, True)
    refuse(errno.EPERM)
    with pytest.raises(VethError) as refusal:
        nursery.birth(LinkSpec(name="va"), there.fd)
    assert refusal.value.errno == errno.EPERM
    assert there.names() == set()


def test_an_ifindex_that_the_kernel_ignores_is_refused(
    house: House, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 5.13 IFLA_NEW_IFINDEX is an attribute of replies alone."""
    there, move = house.net(), Rtnl.move

    def old(self: Rtnl, *args: Any, new_ifindex: int | None = None, **more: Any) -> None:
        del new_ifindex
        move(self, *args, **more)

    monkeypatch.setattr(Rtnl, "move", old)
    with pytest.raises(VethError) as refusal:
        nursery.birth(LinkSpec(name="va", index=4711), there.fd)
    assert (refusal.value.errno, "5.13" in refusal.value.reason) == (errno.EOPNOTSUPP, True)
    assert there.names() == set()


@pytest.mark.parametrize("taken", [True, False])
def test_a_taken_name_is_told_from_other_einvals(
    house: House, nursery: Nursery, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """5.4 moves a device under a name that is taken with EINVAL."""
    there = house.net()
    first, _ = nursery.birth(LinkSpec(name="va"), there.fd)

    def old(_self: Rtnl, *_args: Any, **_more: Any) -> None:
        raise VethError(errno.EINVAL, "newlink")

    monkeypatch.setattr(Rtnl, "move", old)
    with closing(first):
        with pytest.raises(VethError) as refusal:
            nursery.birth(LinkSpec(name="va" if taken else "vb"), there.fd)
        assert refusal.value.errno == (errno.EEXIST if taken else errno.EINVAL)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTTY])
@pytest.mark.parametrize(("name", "request_"), [("TUNGETDEVNETNS", TUNGETDEVNETNS), ("TUNSETCARRIER", TUNSETCARRIER)])
def test_a_kernel_that_is_too_old_is_named(place: Place, name: str, request_: int, code: int) -> None:
    """Before 5.2, and before 5.0: the daemon starts, vethctl and doctor say what a pair would need."""
    site, _ = place
    without = (sys.executable, "-c", WITHOUT_IOCTL, str(request_), str(code))
    site.program = (*without, *DAEMON)
    site.start()
    vethctl = (sys.executable, "-m", "vethd.control.main", "--socket", str(site.socket))
    argv = (*vethctl, "add", "va", "--peer", "vb")
    add = site.home.run(subprocess.run, argv, capture_output=True, text=True, check=False)
    words = f"this kernel is too old: vethd needs Linux 5.2 or newer ({name})"
    assert (add.returncode, add.stderr) == (1, f"vethctl: newlink vb: {words}\n")
    assert site.home.names() == set()
    status, found = checks(":", *without)
    assert (status, found["TAP"]["detail"]) == (1, f"newlink vethd-probe: {words}")
    assert "Linux 5.2 or newer" in found["TAP"]["advice"]


def run(script: str, *argv: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a command in a mount namespace that the script has changed, to its end."""
    script = f'mount --make-rprivate / && {script} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)


def checks(script: str, *argv: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run `vethctl doctor --json` likewise; return its exit status, and its checks by name."""
    done = run(script, *argv, *DOCTOR)
    assert done.stderr == ""
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("umount -l /proc", "netns: /proc is not mounted"),
        (NO_NODES, "start: /dev/net/tun: missing, but the kernel has the tun driver: `mkdir -p /dev/net; mknod"),
        (f"{NO_NODES} && mkdir /dev/net/tun", "start: /dev/net/tun: not the device with the number 10:200: `rm -r"),
        (f"{NO_NODES},nodev && {MKNOD}", "start: /dev/net/tun: on a file system without devices (nodev): start the"),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(root: None, tmp_path: Path, script: str, words: str) -> None:  # noqa: ARG001 - see conftest.py
    done = run(script, *DAEMON, "--socket", str(tmp_path / "socket"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"vethd: {words}")
    assert done.stderr.count("\n") == 1
    status, found = checks(script)
    assert status == 1
    assert any(check["required"] and not check["ok"] and check["advice"] for check in found.values())
    assert found["engine native"]["ok"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (NO_NODES, "newlink va: /dev/net/tun: missing, but the kernel has the tun driver: `mkdir -p"),
        (f"{NO_NODES},nodev && {MKNOD}", "newlink va: /dev/net/tun: on a file system without devices (nodev): start"),
    ],
)
def test_a_birth_says_the_same(root: None, script: str, words: str) -> None:  # noqa: ARG001 - see conftest.py
    birth = "from vethd.kernel.tun import Tap; from vethd.model.errors import VethError\ntry: Tap.birth('va')\n"
    birth += "except VethError as error: print(error)"
    assert run(script, sys.executable, "-c", birth).stdout.startswith(words)


@pytest.mark.parametrize(
    "script",
    [
        ":",
        "umount -l /sys",
        "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys",
        "mount -t tmpfs tmpfs /run",
    ],
)
def test_doctor_is_content_without_what_vethd_can_do_without(root: None, script: str) -> None:  # noqa: ARG001 - see conftest.py
    status, found = checks(script)
    assert [name for name, check in found.items() if check["required"] and not check["ok"]] == []
    assert status == 0
