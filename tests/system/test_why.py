"""vethctl drops and why, as a user meets them: why frames of a real pair do not arrive, and that the advice cures it.

red [va] ==== vethd ==== [vb] blue
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.lib.daemon import PROGRAM
from tests.lib.frames import ETH_P_IP, ether, sized, udp
from tests.lib.lab import Lab, Wire
from tests.lib.packet import PacketSocket
from tests.lib.seccomp import without
from tests.lib.site import Place, Site
from tests.lib.site import site as make_site
from tests.lib.wait import wait_until
from vethd.kernel.abi import bpf_number

VETHCTL = (sys.executable, "-m", "vethd.control.main")
RING = 64
BURST = 3 * RING
KEPT = 64


class Net(NamedTuple):
    """A daemon, and the pair va, vb, whose ends are down."""

    site: Site
    wire: Wire

    def vethctl(self, *args: str, status: int = 0) -> str:
        """Run vethctl in the daemon's namespace and return its stdout. Raises AssertionError for another status."""
        argv = [*VETHCTL, "--socket", str(self.site.socket), *args]
        done = self.site.home.run(subprocess.run, argv, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        return str(done.stdout)

    def why(self, sender: str = "va", *, status: int = 0) -> dict[str, Any]:
        """Return what `vethctl why va` says of one direction, by check."""
        findings = json.loads(self.vethctl("why", "va", "--json", status=status))
        return {one["check"]: one for one in findings if one["sender"].startswith(sender)}

    def follow(self, advice: str) -> None:
        """Run the first command of an advice."""
        found = re.search("`vethctl ([^`]*)`", advice)
        assert found, advice
        self.vethctl(*shlex.split(found[1]))

    def frames(self, *args: str) -> list[dict[str, Any]]:
        """Return the frames that `vethctl drops` shows."""
        return [json.loads(line) for line in self.vethctl("drops", "--json", *args).splitlines()]


def lose(sock: PacketSocket, frame: bytes) -> None:
    """Send a frame that the kernel may drop at once, which it tells a packet socket."""
    with contextlib.suppress(OSError):
        sock.send(frame)


def net(site: Site, lab: Lab, **link: Any) -> Net:
    """Make the pair."""
    a, b = lab.netns("a"), lab.netns("b")
    site.post({"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name, **link}, **link})
    return Net(site, lab.wire(a, b))


@pytest.fixture
def place(root: None, engine: str, tmp_path: Path) -> Iterator[Place]:  # noqa: ARG001 - the check that we may
    """Yield a site of each engine, running, and a bench."""
    with make_site(tmp_path, engine) as (site, lab):
        site.start()
        yield site, lab


@pytest.fixture
def lesser(root: None, engine: str, tmp_path: Path) -> Iterator[Net]:  # noqa: ARG001 - the check that we may
    """Yield a pair, up, of a daemon without BPF: the engine itself drops what is oversize."""
    with make_site(tmp_path, engine) as (site, lab):
        site.program = (*without(bpf_number() or 0, errno.EPERM), *PROGRAM)
        site.start()
        it = net(site, lab)
        it.wire.up()
        yield it


def test_ends_that_are_down(place: Place) -> None:
    it = net(*place)
    found = it.why(status=1)
    assert [found[check]["state"] for check in ("sender", "receiver", "carrier")] == ["problem"] * 3
    it.follow(found["sender"]["advice"])
    found = it.why(status=1)
    assert [found[check]["state"] for check in ("sender", "receiver", "carrier")] == ["ok", "problem", "problem"]
    it.follow(found["receiver"]["advice"])
    it.wire.wait_carrier()
    assert {one["state"] for one in it.why().values()} <= {"ok", "note"}
    assert it.why()["forwarded"]["state"] == it.why("vb")["forwarded"]["state"] == "note"  # nothing was sent
    with it.wire.a.packet() as sock, it.wire.b.packet() as receiver:
        sock.send(sized(100))
        receiver.recv_proto()
    assert it.why()["forwarded"]["frames"] == 1


def test_a_smaller_mtu_behind_a_larger_one(place: Place) -> None:
    it = net(*place)
    it.wire.up()
    it.vethctl("set", "vb", "--mtu", "1400")
    assert it.why()["MTU"]["state"] == "note"
    with it.wire.a.packet() as sock, it.wire.b.packet() as receiver:
        lose(sock, sized(1514))
        wait_until(lambda: it.why(status=1)["MTU"]["frames"] == 1, what="the count of the frame")
        it.follow(it.why(status=1)["MTU"]["advice"])
        assert it.why()["MTU"]["state"] == "note"
        sock.send(sized(1414, seed=1))
        assert receiver.recv_proto().frame == sized(1414, seed=1)
    assert "kernel_oversize=1, of which vethd has no headers" in it.vethctl("drops")


def test_a_ring_that_was_full(place: Place) -> None:
    site, lab = place
    it = net(site, lab, ring=RING)
    it.wire.up()

    def burst() -> int:
        with it.wire.a.packet() as sock, site.daemon.stopped():
            for number in range(BURST):
                lose(sock, sized(100, number))
        found = wait_until(lambda: [one for one in [it.why(status=1)["ring"]] if one["frames"]], what="lost frames")
        return int(found[0]["frames"])

    lost = burst()
    assert lost == BURST - RING
    it.follow(it.why(status=1)["ring"]["advice"])
    assert burst() == lost


def test_what_nobody_takes(place: Place) -> None:
    """An EtherType without a handler: the kernel behind the receiver drops it, and counts."""
    it = net(*place)
    it.wire.up()
    with it.wire.a.packet() as sock:
        sock.send(sized(100))
        wait_until(lambda: it.why(status=1)["reception"]["frames"] == 1, what="the kernel's count")
    with it.wire.a.packet() as sock, it.wire.b.packet() as receiver:
        sock.send(sized(100))
        receiver.recv_proto()
    assert it.why(status=1)["reception"]["frames"] == 1


def test_a_pair_that_waits(place: Place) -> None:
    site, _ = place
    site.configure('[[pair]]\nname = "vx"\nnetns = "no-such-namespace"\n')
    site.reload()
    site.wait_state("vx", "waiting")
    it = Net(site, None)  # type: ignore[arg-type]  # there is no wire
    (found,) = json.loads(it.vethctl("why", "vx", "--json", status=1))
    assert (found["state"], found["check"]) == ("problem", "pair")
    assert "no-such-namespace" in found["detail"]
    it.vethctl("why", "vy", status=1)


def test_the_frames_that_the_engine_dropped(lesser: Net, tmp_path: Path) -> None:
    it, frames = lesser, [ether(udp(("10.9.0.1", n), ("10.9.0.2", 53), bytes(1600)), proto=ETH_P_IP) for n in (1, 2, 3)]
    with it.wire.a.packet() as sock:
        it.wire.a.set("mtu 2000")
        for frame in frames:
            sock.send(frame)
    wait_until(lambda: len(it.frames("va")) == len(frames), what="the drops")
    found = it.frames("vb", "--in", it.wire.b.netns.name)
    assert found == it.frames() == it.frames("--reason", "oversize") == it.frames("va")
    assert [(one["link"], one["peer_name"], one["reason"], one["limit"]) for one in found] == [
        ("va", "vb", "oversize", 1518)
    ] * 3
    assert [one["length"] for one in found] == [len(frame) for frame in frames]
    assert it.frames("-n", "1") == found[-1:]
    assert it.frames("--reason", "runt") == []
    rows = it.vethctl("drops").splitlines()[1:]
    assert [re.split("  +", row)[3:] for row in rows] == [
        ["oversize", str(len(frames[0])), f"IPv4 UDP 10.9.0.1:{n} > 10.9.0.2:53"] for n in (1, 2, 3)
    ]
    file = tmp_path / "drops.pcapng"
    it.vethctl("drops", "-w", str(file))
    text = subprocess.run(["tcpdump", "-n", "-r", file], capture_output=True, text=True, check=True).stdout
    assert [line.count(f"10.9.0.1.{n} > 10.9.0.2.53") for n, line in enumerate(text.splitlines(), 1)] == [1] * 3
    assert it.why(status=1)["MTU"]["frames"] == len(frames)
    it.follow(it.why(status=1)["MTU"]["advice"])
    assert it.why()["MTU"]["state"] == "note"


def test_follow(lesser: Net) -> None:
    """Frames are printed as they are dropped; those that the engine no longer has are counted."""
    it = lesser
    it.wire.a.set("mtu 2000")
    argv = [*VETHCTL, "--socket", str(it.site.socket), "drops", "va", "--follow"]
    with (
        it.site.home.run(subprocess.Popen, argv, stdout=subprocess.PIPE, text=True) as follower,
        it.wire.a.packet() as sock,
    ):
        assert follower.stdout is not None
        sock.send(sized(1600))
        assert "ethertype 0x88b5" in follower.stdout.readline()
        for number in range(10 * KEPT):
            sock.send(sized(1600, number))
        seen, missed = 0, 0
        while seen + missed < 10 * KEPT:
            line = follower.stdout.readline()
            found = re.match(r"(\d+) more frames", line)
            missed += int(found[1]) if found else 0
            seen += 0 if found else 1
        assert seen + missed == 10 * KEPT
        assert seen >= KEPT
        follower.terminate()


def test_latency(place: Place) -> None:
    """Every frame counts once, in the table as in the JSON."""
    it = net(*place)
    it.wire.up()
    with it.wire.a.packet() as sock, it.wire.b.packet() as receiver:
        for number in range(50):
            sock.send(sized(100, number))
            receiver.recv_proto()
    there, back = json.loads(it.vethctl("latency", "va", "--json"))
    assert (there["name"], there["peer_name"], sum(there["counts"]), sum(back["counts"])) == ("va", "vb", 50, 0)
    assert len(there["counts"]) == len(there["bounds_ns"])
    rows = [line.split() for line in it.vethctl("latency", "vb").splitlines()]
    assert [row[2] for row in rows] == ["FRAMES", "50", "0"]
    bars = it.vethctl("latency", "--histogram").split("to vb@")[1].splitlines()[2:]
    assert sum(int(line.split()[2]) for line in bars) == 50
    it.vethctl("latency", "no-such-link", status=1)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["drops", "no-such-link"], 1, "vethd has no link of that name"),
        (["drops", "--reason", "bored"], 2, "bored"),
        (["drops", "-n", "0"], 2, "0"),
        (["drops", "--in", "red"], 2, "--netns needs NAME"),
        (["drops", "--json", "-w", "-"], 2, "exclude each other"),
        (["drops", "-w", "/nowhere/file"], 4, "/nowhere/file: No such file or directory"),
        (["drops", "-w", "/dev/full"], 4, "/dev/full: No space left on device"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_bad_input(place: Place, words: list[str], status: int, said: str) -> None:
    site, _ = place
    argv = [*VETHCTL, "--socket", str(site.socket), *words]
    done = site.home.run(subprocess.run, argv, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
