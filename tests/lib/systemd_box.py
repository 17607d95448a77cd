"""A box with the real systemd as its PID 1, to start units in: private, bounded in time, and gone without a trace.

Theory of operation. The box is this machine's root file system under an overlay whose upper layer is a tmpfs, in
mount, PID, UTS, IPC, cgroup and network namespaces of its own, with a /dev, a /run and a cgroup made for it. What is
written in it is never seen outside. Nothing outside is shared but the kernel, so the units of a boot that would set
up the kernel (sysctl, binfmt, modules) are masked.

systemd tells when it has booted, and with which PID as seen from here, by the datagram that it sends to
$NOTIFY_SOCKET as any service does. Killing that one process ends the box: the kernel kills the rest of its PID
namespace, and with the last process go its mounts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.lib.wait import wait_until

BOOT_S = 60.0
STOP_S = 20.0
RUN_S = 300.0  # dpkg, or a find over a whole disk, on a machine that has too much to do
REPO = Path(__file__).resolve().parents[2]

# Units of a boot that set up the kernel which we share, or empty /tmp, where the caller's files may well stand.
MASKED = (
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "proc-sys-fs-binfmt_misc.mount",
    "systemd-journald-audit.socket",
    "systemd-modules-load.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-setup.service",
    "systemd-udevd.service",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
    "timers.target",
)

# $1 the box's directory, $2 its cgroup, then the paths that the overlay of / does not show
_ENTER = """
echo $$ >"$2/cgroup.procs"
exec setpriv --pdeathsig KILL unshare --mount --propagation private --pid --uts --ipc --cgroup --net \
  --fork --kill-child sh -euc "$0" box "$@"
"""
_INIT = """
box=$1
shift 2
mount -t tmpfs tmpfs "$box/upper"
mkdir "$box/upper/up" "$box/upper/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$box/upper/up,workdir=$box/upper/work" "$box/root"
cd "$box/root"
for path in "$@"; do
  mkdir -p ".$path"
  mount --rbind "$path" ".$path"
done
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net run/box
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mknod -m 666 dev/ptmx c 5 2
mknod -m 666 dev/net/tun c 10 200
mount --bind "$box/notify" run/box
rm -f etc/machine-id
echo 5c1a0000000000000000000000000001 >etc/machine-id
mkdir -p etc/systemd/system
for unit in $MASKED; do
  ln -sf /dev/null "etc/systemd/system/$unit"
done
ip link set lo up
mount --make-rshared .
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=box \
  NOTIFY_SOCKET=/run/box/boot chroot . \
  /lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=0
"""


class SystemdBox:
    """One booted systemd; a context manager. Needs root and Debian's systemd."""

    def __init__(self) -> None:
        """Prepare nothing yet: entering boots it."""
        self.pid = 0  # systemd's, as seen from here
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            box = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vethd-box.")))
            for name in ("root", "upper", "notify"):
                (box / name).mkdir()
            box.chmod(0o755)
            cgroup = self._stack.enter_context(_cgroup(box.name))
            notify = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            notify.bind(str(box / "notify" / "boot"))
            log = self._stack.enter_context((box / "log").open("w+b"))
            argv = ["sh", "-euc", _ENTER, _INIT, str(box), str(cgroup), *_other_mounts()]
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "MASKED": " ".join(MASKED)},
            )
            self._stack.callback(self._end, child, str(box))
            try:
                self.pid = _booted(notify, child)
            except TimeoutError as error:
                raise AssertionError(f"systemd did not boot: {error}\n{(box / 'log').read_text()}") from error
            # it tells of every job that takes long, and would wait for ever for somebody to read that
            notify.close()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def popen(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a program as root in the box. Whoever forgets it: it dies with the box."""
        enter = ["nsenter", "-t", str(self.pid), "--all", "--root", "--wd"]
        return subprocess.Popen(
            [*enter, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # nsenter forks: the group is both
        )

    def run(self, *argv: str, timeout_s: float = RUN_S) -> subprocess.CompletedProcess[str]:
        """Run a program as root in the box, to its end."""
        child = self.popen(argv)
        try:
            out, err = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            what = f"{' '.join(argv)}: not within {timeout_s} s"
            raise AssertionError(what if argv[0] == "journalctl" else f"{what}\n{self.journal()}") from None
        return subprocess.CompletedProcess(argv, child.returncode, out, err)

    def output(self, *argv: str) -> str:
        """Run a program that must succeed, and return what it printed.

        Raises AssertionError with its words, and the journal's end.
        """
        done = self.run(*argv)
        assert done.returncode == 0, (
            f"{' '.join(argv)}: {done.returncode}\n{done.stderr}{done.stdout}\n{self.journal()}"
        )
        return done.stdout

    def show(self, unit: str, key: str) -> str:
        """Return one property of a unit, as `systemctl show` prints it."""
        return self.output("systemctl", "show", "--value", "--property", key, unit).strip()

    def journal(self) -> str:
        """Return the journal's last lines, for a failure's text."""
        if not self.pid:
            return ""
        done = self.run("journalctl", "--no-pager", "--lines=50", "--output=short-monotonic", timeout_s=STOP_S)
        return done.stdout + done.stderr

    def path(self, path: str) -> Path:
        """Return the path by which this process sees a file of the box; sockets can be connected to by it."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def write(self, path: str, text: str) -> None:
        """Write a file of the box, and its directories."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def _end(self, child: subprocess.Popen[bytes], box: str) -> None:
        """Kill systemd, and with it all that lives in the box; prove that no process and no mount stayed."""
        namespace = pid_namespace(self.pid) if self.pid else None
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        else:
            child.kill()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self.pid = 0
        if namespace:
            wait_until(lambda: not inhabitants(namespace), STOP_S, "the end of the box's processes")
        assert box not in Path("/proc/self/mountinfo").read_text(), "the box left a mount"


@pytest.fixture(name="systemd_box")
def systemd_box_fixture(root: None) -> Iterator[SystemdBox]:  # noqa: ARG001 - asked for, before it boots
    """Boot a systemd for one test."""
    with SystemdBox() as box:
        yield box


def _booted(notify: socket.socket, child: subprocess.Popen[bytes]) -> int:
    """Wait for systemd's READY=1 and return the sender's PID. Raises TimeoutError."""
    end = time.monotonic() + BOOT_S
    while child.poll() is None:
        notify.settimeout(max(0.0, min(0.5, end - time.monotonic())) or 0.001)
        try:
            data, ancillary, _flags, _address = notify.recvmsg(4096, socket.CMSG_SPACE(12))
        except TimeoutError:
            if time.monotonic() > end:
                raise TimeoutError(f"not within {BOOT_S} s") from None
            continue
        for level, kind, credentials in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and b"READY=1" in data.split(b"\n"):
                pid, _uid, _gid = struct.unpack("3i", credentials)
                return int(pid)
    raise TimeoutError(f"it ended with {child.returncode}")


def _other_mounts() -> list[str]:
    """Return what the tests need and a mount other than / holds: an overlay shows one file system."""
    here = Path("/").stat().st_dev
    wanted = [REPO, Path(sys.prefix), Path(sys.base_prefix)]
    return sorted({str(path) for path in wanted if path.stat().st_dev != here})


@contextlib.contextmanager
def _cgroup(name: str) -> Iterator[Path]:
    """Make a cgroup for the box below our own, and remove it with all that systemd made in it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = [line.split()[4] for line in lines if line.partition(" - ")[2].startswith("cgroup2 ")]
    assert mounts, "no cgroup2 is mounted, which systemd needs"
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    cgroup = Path(mounts[0] + own[0]) / name
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        wait_until(lambda: _removed(cgroup), STOP_S, f"the end of {cgroup}")


def _removed(cgroup: Path) -> bool:
    try:
        for directory, _names, _files in os.walk(cgroup, topdown=False):
            Path(directory).rmdir()
    except OSError:  # a dead process that is not reaped yet counts
        return False
    return True


def pid_namespace(pid: int) -> str:
    """Name a process's PID namespace, e.g. pid:[4026532177]."""
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def inhabitants(namespace: str) -> list[int]:
    """Return the PIDs, as seen from here, of what lives in that PID namespace."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if pid_namespace(int(entry.name)) == namespace:
                    found.append(int(entry.name))
    return found


def visible_to_services() -> str:
    """Return the lines of a [Service] section by which a sandboxed service sees the tests' own vethd and Python.

    A real installation needs none of it: it does not lie under /root, /home or /tmp, as a clone may.
    """
    paths = sorted({str(REPO), sys.prefix, sys.base_prefix})
    return "ProtectHome=tmpfs\n" + "".join(f"BindReadOnlyPaths={path}\n" for path in paths)
