"""The demo, as root, as the root of a user namespace, and as somebody who is nobody; and what it leaves: nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.lib.netns import RUN_NETNS, command, in_netns
from tests.lib.wait import wait_until

REPO = Path(__file__).resolve().parents[2]
DEMO = (sys.executable, str(REPO / "tools" / "demo.py"), "--seconds", "1")
RUN_S = 180.0
NOBODY = 65534
LAST_PROBE = 6  # the kernel counts from ucast_solicit, 3, and asks mcast_solicit times, 3
pytestmark = pytest.mark.usefixtures("root")

ROOTLESS = ("unshare", "--user", "--map-root-user", "--net")
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
WITHOUT_TUN = ("unshare", "--mount", "sh", "-euc", 'mount -t tmpfs tmpfs /dev/net; exec "$@"', "sh")


def traces(tmp_path: Path) -> set[str]:
    """Return what a demo could leave: processes, devices, named namespaces, and files in tmp_path, its $TMPDIR."""
    found = {f"file {path}" for path in tmp_path.rglob("*")}
    found |= {f"device {line.split(':')[0]}" for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
    if RUN_NETNS.exists():
        found |= {f"netns {path.name}" for path in RUN_NETNS.iterdir() if not path.name.startswith("vt-")}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it ended, or it is no process
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ours = re.search(rf"{re.escape(str(REPO))}/(tools/demo|configs/demo)", command)
            # another's iperf3 may begin and end beside us
            if ours or ("iperf3 --" in command and (entry / "cwd").readlink() in (REPO, Path.cwd())):
                found.add(f"process {entry.name}: {command}")
    return found


class Demo:
    """A running demo, in a session of its own, so that its whole process group can be signalled as a terminal does."""

    def __init__(self, tmp_path: Path, argv: Sequence[str]) -> None:
        self.tmp_path = tmp_path
        self.before = traces(tmp_path)
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        self.out = ""

    def read_until(self, word: str) -> None:
        """Read its output until a line begins with word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out += line
            if line.startswith(word):
                return
        raise AssertionError(f"it ended before {word}: {self.process.communicate()[1]}")

    def kill(self) -> None:
        """Make sure that nothing of it runs on, whatever a test made of it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; give exit status, stdout and stderr. Raises AssertionError where it left anything."""
        try:
            out, err = self.process.communicate(timeout=RUN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not within {RUN_S} s: {self.out}") from None
        assert traces(self.tmp_path) <= self.before
        return self.process.returncode, self.out + out, err


Start = Callable[..., Demo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Yield the function that starts a demo by its command."""
    with ExitStack() as stack:

        def started(*argv: str) -> Demo:
            demo = Demo(tmp_path, argv)
            stack.callback(demo.kill)
            return demo

        yield started


def check_shown(out: str) -> None:
    """What every run must have shown."""
    assert re.search(r"^pair +va .* carrier on$", out, re.MULTILINE)
    assert "5 packets transmitted, 5 received, 0% packet loss" in out
    assert float(re.findall(r"^TCP .* ([0-9.]+) Gbit/s$", out, re.MULTILINE)[0]) > 0
    assert re.search(r"^vb down +va: <NO-CARRIER", out, re.MULTILINE)
    assert "3 packets transmitted, 0 received" in out
    assert re.search(r"^vb up +va: <.*LOWER_UP.*state UP$", out, re.MULTILINE)
    assert "3 packets transmitted, 3 received, 0% packet loss" in out
    assert re.search(r"^LINK .*RX-PACKETS.*TX-BYTES.*DROPS$", out, re.MULTILINE)
    assert re.search(r"^va .*(no_carrier|peer_down|kernel_unknown)=", out, re.MULTILINE)
    assert re.search(r"^vb ", out, re.MULTILINE)
    assert out.rstrip().endswith("daemon, devices and namespaces")


def everybodys(tmp_path: Path, tun_mode: int = 0o666) -> list[str]:
    """Return the prefix of a command that runs where everybody may do what the demo needs of a machine.

    /dev/net/tun has tun_mode (0666 is what udev gives it), tmp_path is writable and $TMPDIR, and neither our code
    nor our Python lies behind a directory that only root may pass, such as /root.
    """
    paths = sorted({REPO, Path(sys.prefix), Path(sys.base_prefix)})
    closed = {next((up for up in reversed(path.parents) if not up.stat().st_mode & 1), None) for path in paths}
    script = [
        "mount -t tmpfs -o mode=755 tmpfs /dev/net",
        f"mknod -m {tun_mode:o} /dev/net/tun c 10 200",
        "mount -t tmpfs -o mode=755 tmpfs /mnt",
        "mkdir -m 777 /mnt/tmp",
        f"mount --bind {shlex.quote(str(tmp_path))} /mnt/tmp",
        "chmod 777 /mnt/tmp",
        *(f"mkdir /mnt/{n}; mount --rbind {shlex.quote(str(path))} /mnt/{n}" for n, path in enumerate(paths)),
        *(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(up))}" for up in closed if up),
        *(f"mkdir -p {shlex.quote(str(path))}; mount --rbind /mnt/{n} {path}" for n, path in enumerate(paths)),
        f"cd {shlex.quote(str(REPO))}",
        'TMPDIR=/mnt/tmp HOME=/mnt/tmp exec "$@"',
    ]
    return ["unshare", "--mount", "sh", "-euc", "\n".join(script), "sh"]


@pytest.mark.parametrize("prefix", [(), ROOTLESS], ids=["root", "rootless"])
def test_demo(start: Start, prefix: tuple[str, ...]) -> None:
    code, out, err = start(*prefix, *DEMO).end()
    assert (code, err) == (0, "")
    check_shown(out)
    assert ("rootless yes" if prefix else "rootless no") in out


def test_demo_by_nobody(tmp_path: Path, start: Start) -> None:
    code, out, err = start(*everybodys(tmp_path), *AS_NOBODY, *ROOTLESS, *DEMO).end()
    assert (code, err) == (0, "")
    check_shown(out)


@pytest.mark.parametrize("prefix", [(), ROOTLESS], ids=["root", "rootless"])
def test_make_demo(start: Start, prefix: tuple[str, ...]) -> None:
    code, out, err = start(*prefix, "make", "--no-print-directory", "-C", str(REPO), "demo").end()
    assert (code, err) == (0, "")
    check_shown(out)


def test_without_iperf3(tmp_path: Path, start: Start) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ip", "nsenter", "ping"):
        (programs / name).symlink_to(str(shutil.which(name)))
    code, out, err = start("env", f"PATH={programs}", *DEMO).end()
    assert (code, err) == (0, "")
    check_shown(out)
    assert "iperf3 is not installed" in out


@pytest.mark.heavy
def test_on_a_slow_machine(start: Start) -> None:
    """It comes to set vb up where ARP has asked its last question in vain, and will drop what waits for the answer."""
    demo = start(*DEMO)
    for word in ("vb down", "ping"):
        demo.read_until(word)
    os.kill(demo.process.pid, signal.SIGSTOP)
    found = re.search(r"va \(\S+ in (\S+),", demo.out)
    assert found
    fds = Path(f"/proc/{demo.process.pid}/fd")
    namespace = next(fd for fd in fds.iterdir() if str(fd.readlink()) == found[1])

    def asked() -> bool:
        entries = json.loads(in_netns(namespace, command, ["ip", "-s", "-j", "neighbour", "show", "dev", "va"]))
        return any(entry["probes"] >= LAST_PROBE or entry["state"] != ["INCOMPLETE"] for entry in entries)

    wait_until(asked, poll_s=0.02)
    os.kill(demo.process.pid, signal.SIGCONT)
    code, out, err = demo.end()
    assert (code, err) == (0, "")
    check_shown(out)


@pytest.mark.parametrize("stage", ["vethd", "pair", "ping", "TCP", "vb down"])
def test_ctrl_c(start: Start, stage: str) -> None:
    demo = start(*DEMO)
    demo.read_until(stage)
    os.killpg(demo.process.pid, signal.SIGINT)  # as a terminal does: to the demo and to what it runs
    code, _out, err = demo.end()
    assert code == 128 + signal.SIGINT
    assert err.strip() == "demo: SIGINT: everything that it made was removed"


def test_ctrl_c_before_anything_is_shown(tmp_path: Path, start: Start) -> None:
    demo = start(*DEMO)
    wait_until(lambda: any("configs/demo" in trace for trace in traces(tmp_path)), RUN_S)
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.end()[0] == 128 + signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals(start: Start, number: signal.Signals) -> None:
    demo = start(*ROOTLESS, *DEMO)
    demo.read_until("ping")
    os.kill(demo.process.pid, number)
    assert demo.end()[0] == 128 + number


def test_a_second_ctrl_c_does_not_disturb_the_cleaning_up(start: Start) -> None:
    demo = start(*DEMO)
    demo.read_until("ping")
    while demo.process.poll() is None:
        os.killpg(demo.process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            demo.process.wait(0.01)
    assert demo.end()[0] == 128 + signal.SIGINT


def test_daemon_killed_midway(start: Start) -> None:
    demo = start(*DEMO)
    demo.read_until("TCP")
    pid = int(re.findall(r"PID ([0-9]+)", demo.out)[0])
    os.kill(pid, signal.SIGKILL)
    code, _out, err = demo.end()
    assert code == 1
    assert err.startswith("demo: ")
    assert "Traceback" not in err


@pytest.mark.parametrize("prefix", [(), ROOTLESS], ids=["root", "rootless"])
def test_without_tun(start: Start, prefix: tuple[str, ...]) -> None:
    code, out, err = start(*WITHOUT_TUN, *prefix, *DEMO).end()
    assert (code, out) == (1, "")
    assert err.startswith("demo: /dev/net/tun: missing, but the kernel has the tun driver: `mkdir -p /dev/net; ")


def test_tun_of_another_user(tmp_path: Path, start: Start) -> None:
    code, out, err = start(*everybodys(tmp_path, 0o600), *AS_NOBODY, *ROOTLESS, *DEMO).end()
    assert (code, out) == (1, "")
    assert err == ("demo: /dev/net/tun: no permission, its mode is 0600: `chmod 666 /dev/net/tun`, as udev does\n")


def test_without_rights(tmp_path: Path, start: Start) -> None:
    code, out, err = start(*everybodys(tmp_path), *AS_NOBODY, *DEMO).end()
    assert (code, out) == (1, "")
    assert err == "demo: no permission to create namespaces: run as root, or `unshare -Urn make demo`\n"
