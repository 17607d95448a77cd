"""vethd-run: any program's veths are vethd's, and the program notices nothing else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.door import Door
from tests.lib.lab import Lab
from tests.lib.netns import Netns
from tests.lib.site import Site
from tests.lib.site import site as make_site

CALLER = (sys.executable, "-m", "tests.lib.run_caller")
STEPS = ("sending", "several", "extended", "duplicates", "flags", "dump", "crowd", "threads", "storm", "rights")
PAIR = ("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
PAIR_LINE = " ".join(PAIR)


@pytest.fixture
def door(site: Site, tmp_path: Path) -> Iterator[Door]:
    door = Door(site, tmp_path)
    yield door
    door.wait_over()


@pytest.fixture
def place(lab: Lab) -> Netns:
    return lab.netns("a")


@pytest.fixture
def lone(root: None, tmp_path: Path) -> Iterator[tuple[Door, Netns]]:  # noqa: ARG001 - the check that we may
    """Yield a door with a daemon of its own, which may be restarted, and a namespace."""
    with make_site(tmp_path) as (site, lab):
        site.start()
        door = Door(site, tmp_path)
        yield door, lab.netns("a")
        door.wait_over()


def ours(door: Door) -> set[str]:
    """Return the names of the ends of the daemon's pairs."""
    return {link["name"] for pair in door.site.daemon.pairs() for link in pair["links"]}


@pytest.mark.parametrize("step", STEPS)
def test_a_program_hears_what_it_hears_with_a_veth(door: Door, lab: Lab, step: str) -> None:
    """In every way to send and receive, in threads and crowds, under a storm of signals."""
    kernel, vethd = lab.netns("a"), lab.netns("b")
    expected = kernel.command(*CALLER, step)
    assert door.output(vethd, *CALLER, step) == expected
    assert vethd.names() == set()


def test_the_program_takes_our_place(door: Door, place: Netns) -> None:
    """Its PID, its status, its descriptors, its children and its environment are what they would be."""
    program = door.start(place, "sh", "-c", "echo $$; exit 7")
    assert (program.communicate()[0], program.returncode) == (f"{program.pid}\n", 7)
    listing = ("sh", "-c", "ls /proc/$$/fd; exit 0")
    assert door.output(place, *listing) == place.command(*listing)
    assert door.output(place, *CALLER, "children").split() == ["children", "[]"]
    assert door.run(place, "sh", "-c", "kill -TERM $$")[0] == -signal.SIGTERM
    assert door.run(place, "no-such-program")[0] == 127
    assert door.run(place, "/etc/hostname")[0] == 126
    env = {key: value for key, value in door.env.items() if not key.startswith("LC_")} | {"A": "b"}
    said = subprocess.run([*door.prefix, "env"], env=env, capture_output=True, text=True, check=True).stdout
    assert dict(line.split("=", 1) for line in said.splitlines()) == env


def test_a_pair_is_ours_and_looks_like_a_veth(door: Door, place: Netns) -> None:
    door.output(place, *PAIR)
    assert ours(door) == {"va", "vb"}
    shown = door.output(place, "ip", "-d", "link", "show", "va")
    assert re.match(r"\d+: va@vb: ", shown), shown
    assert "    veth " in shown, shown
    assert "driver: veth" in door.output(place, "ethtool", "-i", "va")
    peer = next(link["ifindex"] for pair in door.site.daemon.pairs() for link in pair["links"] if link["name"] == "vb")
    assert f"peer_ifindex: {peer}" in door.output(place, "ethtool", "-S", "va")
    assert "driver: tun" in place.command("ethtool", "-i", "va")
    door.output(place, "ip", "link", "del", "vb")
    assert ours(door) == set()


def test_below_it_as_root_of_a_user_namespace(door: Door, place: Netns) -> None:
    """A namespace of the program's own, whose owner the supervisor is not; and a supervisor that is in it as well."""
    line = f"{PAIR_LINE} && ip -br link show type veth | wc -l && ip link del va"
    assert door.output(place, "unshare", "-Urn", "sh", "-ec", line).split() == ["2"]
    assert door.run(place, "sh", "-ec", line, before=("unshare", "-Urn")) == (0, "2\n")


def test_a_process_of_another_pid_namespace(door: Door, place: Netns) -> None:
    line = "unshare -n sleep 60 & until ip link add va type veth peer name vb netns $!; do :; done 2>&1; ip -br link"
    said = door.output(place, "unshare", "-n", "-p", "-f", "--mount-proc", "sh", "-c", line)
    assert re.search(r"^va@if\d+ ", said, re.MULTILINE), said


def test_nested(door: Door, place: Netns) -> None:
    door.output(place, *door.prefix, *PAIR)
    assert ours(door) == {"va", "vb"}
    door.output(place, "ip", "link", "del", "va")


def test_a_filter_of_the_programs_own(door: Door, place: Netns) -> None:
    """A filter that forbids calls stays in force; only a second listener cannot be had (EBUSY)."""
    code = "import os; from tests.lib import seccomp; seccomp.forbid(39, 13); os.execvp('ip', {!r})"
    door.output(place, sys.executable, "-c", code.format(list(PAIR)))
    assert ours(door) == {"va", "vb"}
    code = "from tests.lib import seccomp; seccomp.ask_about_all_but([])"
    status, said = door.run(place, sys.executable, "-c", code)
    assert (status, "Device or resource busy" in said) == (1, True), said
    door.output(place, "ip", "link", "del", "va")


def test_without_a_daemon_one_error_at_once(lone: tuple[Door, Netns]) -> None:
    door, place = lone
    door.site.stop()
    status, said = door.run(place, *PAIR)
    assert status == 2
    assert "vethd does not answer" in said
    assert door.run(place, "ip", "link", "show", "lo")[0] == 0


def test_with_a_daemon_that_hangs_one_error_soon(door: Door, place: Netns) -> None:
    with door.site.daemon.stopped():
        status, said = door.run(place, *PAIR)
        assert status == 2
        assert "vethd does not answer" in said
    assert door.run(place, *PAIR)[0] == 0
    door.output(place, "ip", "link", "del", "va")


def test_the_daemon_restarts_under_it(lone: tuple[Door, Netns], tmp_path: Path) -> None:
    door, place = lone
    go = tmp_path / "go"
    os.mkfifo(go)
    program = door.start(
        place, "sh", "-ec", f"{PAIR_LINE}; ip link del va; echo up; read -r _ <{go}; {PAIR_LINE}; echo done"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "up\n"
    door.site.stop()
    door.site.start()
    go.write_text("go\n")
    assert program.communicate()[0] == "done\n"
    assert ours(door) == {"va", "vb"}


def test_workers_and_keepers_that_are_killed(door: Door, place: Netns) -> None:
    """A killed worker fails no call that it had not in its hands; of a killed keeper's callers none waits for ever."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            victims = [pid for pid in door.supervisors() if parent(pid) in door.supervisors()]
            for pid in victims[:1]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        said = door.output(
            place, "sh", "-c", "for i in $(seq 40); do ip link show lo >/dev/null && echo fine; done; true"
        )
    finally:
        over.set()
        killer.join()
    assert said.count("fine") >= 38, f"{said}\n{door.told()}"


def test_it_ends_with_the_last_process(door: Door, place: Netns) -> None:
    program = door.start(place, "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!")
    sleeper = int(program.communicate()[0])
    assert door.supervisors(), "a child of the program is left"
    os.kill(sleeper, signal.SIGTERM)
    door.wait_over()


def test_a_namespace_that_is_not_the_callers(door: Door, place: Netns) -> None:
    """By the id of a root's process, from a plain user's own namespace: as the kernel says it of a veth."""
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urn")
    words = (*user, *PAIR, "netns", "1")
    kernel = place.run(subprocess.run, words, capture_output=True, text=True, check=False)
    assert kernel.returncode == 2
    assert door.run(place, *words) == (2, kernel.stderr)
    assert door.run(place, *words[:-2])[0] == 0, "in his own he may"


def test_capabilities_that_the_caller_lacks(door: Door, place: Netns) -> None:
    """Root without CAP_NET_ADMIN gets what the kernel would say."""
    status, said = door.run(place, "setpriv", "--bounding-set", "-net_admin", *PAIR)
    assert status == 2
    assert "Operation not permitted" in said
    assert ours(door) == set()


@pytest.mark.parametrize("argv", [[], ["--nonsense", "true"], ["--log"]])
def test_a_mistake_is_told(door: Door, argv: list[str]) -> None:
    done = subprocess.run([*door.prefix[:3], *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("vethd-run: ")


def parent(pid: int) -> int:
    """Return a process's parent, 0 without."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_log_that_cannot_be_written(door: Door, place: Netns) -> None:
    """The program runs all the same, and we say why it has no vethd."""
    door.log = Path("/nonexistent/log")
    status, said = door.run(place, "echo", "hello")
    assert (status, "hello" in said, "vethd-run: echo runs without vethd: " in said) == (0, True, True), said
