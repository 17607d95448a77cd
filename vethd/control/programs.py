"""Check which programs of this machine that use veth can use vethd, and give advice for the others.

For `vethctl doctor`. It only reads: PATH, files, and once the service's properties from systemd.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from vethd.kernel.probe import Check

IP_MARK = b"Made by `vethd-ip install`"
CNI_DIRECTORIES = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))
CNI_CONFIG = Path("/etc/cni/net.d")
SYSTEMD = Path("/run/systemd/system")
KVM = Path("/dev/kvm")
SERVICE = "vethd.service"

_CNI = "vethd-cni"
_RUNTIMES = ("podman", "containerd", "crio")
_HEAD_MAX = 4096
_SYSTEMCTL_S = 3.0
_KEYS = ("LoadState", "FileDescriptorStoreMax", "NFileDescriptorStore")


def programs() -> list[Check]:
    """Run all checks. Blocks until systemctl answers, for 3 s at most."""
    return [fd_store(), ip(), cni(), mininet(), nspawn(), lxc(), qemu()]


def fd_store() -> Check:
    """Ask systemd whether it keeps the links across a restart of the service."""
    name = "systemd fd store"
    if not SYSTEMD.is_dir():
        advice = "`vethd --replace` passes the links to a new daemon"
        return _note(name, "systemd does not run here, so it cannot keep the links across a restart", advice)
    command = ["systemctl", "show", *(f"--property={key}" for key in _KEYS), SERVICE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SYSTEMCTL_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return _note(name, f"systemctl failed: {error}", "")
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if said.get("LoadState") != "loaded":
        advice = "install the package, or `make install` (docs/install.md)"
        return _note(name, f"{SERVICE} is {said.get('LoadState', 'unknown')}", advice)
    room = int(said.get("FileDescriptorStoreMax") or 0)
    if not room:
        return _note(name, f"{SERVICE} has none: a restart loses the links", "set FileDescriptorStoreMax=16384 in it")
    return _ok(name, f"{SERVICE} stores {said.get('NFileDescriptorStore') or 0} of at most {room} descriptors")


def ip() -> Check:
    """Check which `ip` scripts find first on PATH."""
    name = "vethd-ip"
    first = shutil.which("ip")
    if first is None:
        return _note(name, "no ip(8) on PATH", "install iproute2")
    try:
        with Path(first).open("rb") as file:
            head = file.read(_HEAD_MAX)
    except OSError as error:
        return _note(name, f"{first}: {error.strerror}", "")
    if IP_MARK not in head:
        ours = Path(sys.prefix, "ip")
        advice = f"PATH={ours}:$PATH" if (ours / "ip").exists() else "`vethd-ip install DIR`, and PATH=DIR:$PATH"
        return _note(name, f"ip is {first}, the real ip: `ip link add type veth` asks the kernel, not vethd", advice)
    interpreter = _interpreter(head)
    if not os.access(interpreter, os.X_OK):
        return _note(
            name, f"{first} was made for {interpreter}, which is gone", f"`vethd-ip install {Path(first).parent}`"
        )
    return _ok(name, f"ip is {first}: `ip link add type veth` uses vethd")


def cni() -> Check:
    """Check for a container runtime that uses CNI, for vethd's plugin, and for a network that names the plugin."""
    name = "CNI"
    runtime = next(_on_path(*_RUNTIMES), None)
    plugin = next(
        (path for path in (directory / _CNI for directory in CNI_DIRECTORIES) if os.access(path, os.X_OK)), None
    )
    if plugin is None:
        directory = next((path for path in CNI_DIRECTORIES if path.is_dir()), CNI_DIRECTORIES[0])
        advice = f"`vethd-cni install {directory}`" if runtime else "install podman, or another runtime, for containers"
        return _note(name, f"{runtime or 'no container runtime'}, no plugin {_CNI}", advice)
    if runtime is None:
        return _note(name, f"{plugin}, none of {', '.join(_RUNTIMES)} on PATH", "install podman for containers")
    user = next(_configurations(), None)
    if user is None:
        advice = f'write "type": "{_CNI}" into a network of {CNI_CONFIG} (docs/cni.md)'
        return _note(name, f"{runtime}, {plugin}, no network that names it", advice)
    return _ok(name, f"{runtime}, {plugin}, {user}")


def mininet() -> Check:
    """Check for Mininet's command mn."""
    found = next(_on_path("mn"), None)
    if found is None:
        return _note("Mininet", "no mn on PATH", "apt-get install mininet")
    return _ok("Mininet", f"{found}: works with vethd-ip first on PATH, or with --link vethd (docs/mininet.md)")


def nspawn() -> Check:
    """Check for systemd-nspawn, which can take an end."""
    found = next(_on_path("systemd-nspawn"), None)
    if found is None:
        return _note("nspawn", "no systemd-nspawn on PATH", "apt-get install systemd-container")
    return _ok("nspawn", f"{found} --network-interface=END")


def lxc() -> Check:
    """Check for LXC, which can take an end."""
    found = next(_on_path("lxc-start"), None)
    if found is None:
        return _note("LXC", "no lxc-start on PATH", "apt-get install lxc")
    return _ok("LXC", f"{found}: lxc.net.0.type = phys, lxc.net.0.link = END")


def qemu() -> Check:
    """Check for QEMU, whose TAP can be bridged with an end."""
    found = next(_on_path(f"qemu-system-{os.uname().machine}"), None)
    if found is None:
        return _note("QEMU", f"no qemu-system-{os.uname().machine} on PATH", "apt-get install qemu-system")
    speed = f"with {KVM}" if os.access(KVM, os.R_OK | os.W_OK) else "slow without KVM"
    return _ok("QEMU", f"{found}, {speed}: put its TAP and an END on one bridge (docs/vm.md)")


def _on_path(*names: str) -> Iterator[str]:
    """Yield the paths of those programs that are on PATH."""
    yield from filter(None, map(shutil.which, names))


def _configurations() -> Iterator[Path]:
    """Yield the CNI configuration files that name vethd's plugin."""
    for path in sorted(CNI_CONFIG.glob("*.conf*")):
        try:
            if f'"{_CNI}"' in path.read_text(encoding="utf-8", errors="replace"):
                yield path
        except OSError:  # no permission to read it
            continue


def _interpreter(head: bytes) -> str:
    """Return the interpreter in a script's first line."""
    words = head.partition(b"\n")[0].removeprefix(b"#!").split()
    return os.fsdecode(words[0]) if words else ""


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, ok=True, required=False, detail=detail)


def _note(name: str, detail: str, advice: str) -> Check:
    return Check(name=name, ok=False, required=False, detail=detail, advice=advice)
