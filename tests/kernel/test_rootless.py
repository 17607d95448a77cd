"""What works in a user namespace of one's own, with no privilege outside it.

TAPs, their ioctls, links and namespaces all do: their capabilities are asked of the user namespace that owns the
network namespace. Loading a BPF program does not, where unprivileged_bpf_disabled is set: that capability is
asked of the machine. So a rootless daemon checks lengths itself, and can do everything else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.lib import House, Net

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def answers(root: None) -> dict[str, str]:  # noqa: ARG001 - asked for its refusal
    done = subprocess.run(
        ["unshare", "-Urn", sys.executable, "-m", "tests.kernel.rootless"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "what", ["up", "mtu", "carrier", "header", "offload", "noqueue", "listen_all_nsid", "nsid", "move"]
)
def test_works(answers: dict[str, str], what: str) -> None:
    assert answers[what] == "ok"


def test_loading_a_filter_is_the_machines_to_allow(answers: dict[str, str]) -> None:
    unprivileged = Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text(encoding="ascii").strip()
    assert answers["filter"] == ("ok" if unprivileged == "0" else "EPERM")


def test_a_descriptor_needs_no_capability(house: House) -> None:
    """Whoever is handed a tun file can read, write, and set carrier, offloads and header: the open() was checked."""
    net: Net = house.net()
    tap = house.tap(net, "a")
    net.up("a")
    code = (
        "import fcntl, os, struct;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        f"fcntl.ioctl({tap.fd}, 0x400454E2, struct.pack('i', 1));"  # TUNSETCARRIER
        f"fcntl.ioctl({tap.fd}, 0x400454D8, struct.pack('i', 24));"  # TUNSETVNETHDRSZ
        f"fcntl.ioctl({tap.fd}, 0x400454D0, 0x1FF);"  # TUNSETOFFLOAD
        f"os.writev({tap.fd}, [bytes(24), bytes(60)])"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], pass_fds=[tap.fd], check=True, timeout=30)
    link = net.link("a")
    assert (link.carrier, link.stats.rx_packets) == (True, 1)
