"""Tells why /dev/net/tun cannot be opened, and what to do about it.

Theory of operation. The driver (CONFIG_TUN) can be in the kernel, in a module that is not loaded, or nowhere; the node
can be missing, be something else, or be forbidden by its mode, its mount or the rules of a container. The errno of
open(2) does not distinguish all of these. /proc, /sys and /lib/modules do, as far as they are there; none is required.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from vethd.kernel.uapi import DEV_NET_TUN
from vethd.model.errors import VethError
from vethd.model.needs import TUN

_NUMBER = os.makedev(10, 200)  # Documentation/admin-guide/devices.txt
_ROOT = Path("/")
_EVERYBODY = 0o006
_GZIP = 16 + zlib.MAX_WBITS
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""The errnos of open(2) that say nothing about the file."""

_MKNOD = f"`mkdir -p /dev/net; mknod -m 666 {DEV_NET_TUN} c 10 200`"
_DEVICE = f"`--device {DEV_NET_TUN}`"
_MODPROBE = "`modprobe tun`"
_BUILD = f"build tun.ko from this kernel's source with {TUN.option}=m, or install it (OpenWrt: `opkg install kmod-tun`)"


class Driver(Enum):
    """Where the tun driver is; the value is what a message says of it."""

    RUNNING = "the kernel has the tun driver"
    LOADABLE = "the tun module is not loaded"
    ABSENT = f"{TUN.missing} and no tun module"
    UNKNOWN = "the tun module is perhaps not loaded"


_ADVICE = {
    Driver.RUNNING: f"{_MKNOD}; start a container with {_DEVICE}",
    Driver.LOADABLE: _MODPROBE,
    Driver.ABSENT: f"{_BUILD}, then {_MODPROBE}",
    Driver.UNKNOWN: f"{_MODPROBE}; start a container with {_DEVICE}; without such a module, {_BUILD}",
}


class Obstacle(NamedTuple):
    """Why the device cannot be opened: errno, what is wrong, and what to do, "" if that is not known."""

    errno: int
    detail: str
    advice: str

    def __str__(self) -> str:
        """All of it, in one line."""
        return ": ".join(filter(None, (DEV_NET_TUN, self.detail, self.advice)))

    def error(self, op: str, name: str = "") -> VethError:
        """Return it as the error of an operation."""
        return VethError(self.errno, op, name, str(self))


def obstacle(root: Path = _ROOT) -> Obstacle | None:
    """Open the device and close it; return why that failed, None if it did not. root is another / for tests.

    A lack of fds or memory is no obstacle of the device. The open may load the module. Does not raise.
    """
    path = root / DEV_NET_TUN.lstrip("/")
    try:
        status = path.stat()
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _NUMBER:
            detail = "not the device with the number 10:200"
            return Obstacle(
                errno.ENODEV, detail, f"`rm -r {DEV_NET_TUN}`, then {_MKNOD}; start a container with {_DEVICE}"
            )
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError):
        where = driver(root)
        joint = ", but" if where is Driver.RUNNING else ":"
        return Obstacle(errno.ENODEV, f"missing{joint} {where.value}", _ADVICE[where])
    except OSError as error:
        return None if error.errno in _EXHAUSTED else _refused(error, path, root)
    return None


def _refused(error: OSError, path: Path, root: Path) -> Obstacle:
    """Return the obstacle behind an error of open(2) on a node that exists."""
    code = error.errno or errno.EIO
    if code in (errno.ENODEV, errno.ENXIO):
        where = driver(root)
        return Obstacle(errno.ENODEV, f"no driver behind it: {where.value}", _ADVICE[where])
    if code == errno.EPERM:
        advice = f"start the container with {_DEVICE}; give a systemd unit `DeviceAllow={DEV_NET_TUN} rw`"
        return Obstacle(code, "forbidden by the device rules of this container or service", advice)
    if code == errno.EACCES and path.exists():
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _EVERYBODY == _EVERYBODY:
            return Obstacle(code, "on a file system without devices (nodev)", f"start the container with {_DEVICE}")
        return Obstacle(code, f"no permission, its mode is {mode:04o}", f"`chmod 666 {DEV_NET_TUN}`, as udev does")
    return Obstacle(code, error.strerror or str(error), "")


def driver(root: Path = _ROOT) -> Driver:
    """Find the tun driver of the running kernel. Does not raise."""
    modules = root / "lib" / "modules" / os.uname().release
    config = _config(root / "proc" / "config.gz")
    if (root / "sys/class/misc/tun").exists() or re.search(r" tun$", _text(root / "proc/misc"), re.MULTILINE):
        return Driver.RUNNING
    if "/tun.ko" in _text(modules / "modules.builtin") or f"{TUN.option}=y" in config:
        return Driver.RUNNING
    if "/tun.ko" in _text(modules / "modules.dep") or (modules / "tun.ko").exists():
        return Driver.LOADABLE
    if modules.is_dir() or f"# {TUN.option} is not set" in config:
        return Driver.ABSENT
    return Driver.UNKNOWN


def _text(path: Path) -> str:
    """Return a file's text, "" if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _config(path: Path) -> list[str]:
    """Return the lines of the kernel's configuration, none if it cannot be read (CONFIG_IKCONFIG_PROC)."""
    try:
        return zlib.decompress(path.read_bytes(), _GZIP).decode(errors="replace").splitlines()
    except (OSError, zlib.error):
        return []
