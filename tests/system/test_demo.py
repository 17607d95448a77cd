"""The demo, as root, as the root of a user namespace, and as somebody who is nobody; and what it leaves: nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lib.wait import wait_until

REPO = Path(__file__).resolve().parents[2]
DEMO = (sys.executable, str(REPO / "tools" / "demo.py"), "--seconds", "1")
RUN_S = 60.0
NOBODY = 65534

ROOTLESS = ("unshare", "--user", "--map-root-user", "--net")

# A mount namespace in which everybody may open /dev/net/tun, as on any machine that runs udev, and in which nobody is
# kept from our Python by the permissions of a home directory on the way. $1.. are what must be seen, "--", a command.
EVERYBODYS = """
mount -t tmpfs -o mode=755 tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
for path in "$@"; do
  [ "$path" != -- ] || break
  mkdir -p "$BOX/see$path"
  mount --rbind "$path" "$BOX/see$path"
done
for home in /root /home; do
  if [ -d "$BOX/see$home" ]; then
    mount --rbind "$BOX/see$home" "$home"
  fi
done
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
WITHOUT_TUN = ("unshare", "--mount", "sh", "-euc", 'mount -t tmpfs tmpfs /dev/net; exec "$@"', "sh")
FORBIDDEN_TUN = (
    "unshare",
    "--mount",
    "sh",
    "-euc",
    'mount -t tmpfs -o mode=755 tmpfs /dev/net; mknod -m 000 /dev/net/tun c 10 200; exec "$@"',
    "sh",
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-all",
)


@dataclass(frozen=True)
class Traces:
    """What a demo could leave on the machine."""

    processes: frozenset[str]
    devices: frozenset[str]
    names: frozenset[str]
    files: frozenset[str]

    @classmethod
    def now(cls, tmp_path: Path) -> Traces:
        """Look; tmp_path is the demo's $TMPDIR."""
        processes = set()
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if re.search(rf"{re.escape(str(REPO))}/(tools/demo|configs/demo)|iperf3 --(server|client)", command):
                    processes.add(f"{entry.name}: {command}")
        devices = {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
        run_netns = Path("/run/netns")
        names = {path.name for path in run_netns.iterdir()} if run_netns.exists() else set()
        return cls(frozenset(processes), frozenset(devices), frozenset(names), frozenset(map(str, tmp_path.rglob("*"))))


class Demo:
    """A running demo, in a session of its own, so that its whole process group can be signalled as a terminal does."""

    def __init__(self, tmp_path: Path, argv: Sequence[str]) -> None:
        self.tmp_path = tmp_path
        self.before = Traces.now(tmp_path)
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

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; give exit status, stdout and stderr. Raises AssertionError where it left anything."""
        try:
            out, err = self.process.communicate(timeout=RUN_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            raise AssertionError(f"not within {RUN_S} s: {self.out}") from None
        # a device goes within 26 ms of its last fd, and that is within the daemon's own end
        wait_until(lambda: Traces.now(self.tmp_path) == self.before, what="no trace of the demo")
        return self.process.returncode, self.out + out, err


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


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("prefix", [(), ROOTLESS], ids=["root", "rootless"])
def test_demo(tmp_path: Path, prefix: tuple[str, ...]) -> None:
    code, out, err = Demo(tmp_path, [*prefix, *DEMO]).end()
    assert (code, err) == (0, "")
    check_shown(out)
    assert ("rootless yes" if prefix else "rootless no") in out


@pytest.mark.usefixtures("root")
def test_demo_by_nobody(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:2]:  # pytest keeps its directories to itself
        parent.chmod(0o755)
    see = sorted({str(REPO), sys.prefix, sys.base_prefix})
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    argv = ["unshare", "--mount", "env", f"BOX={tmp_path}"]
    raise NotImplementedError((see, drop, argv))
