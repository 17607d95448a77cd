"""vethd as a service, under the real systemd: the units as they are shipped, in a box with PID 1 of its own."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

from tests.lib.service import ACTIVE_S, CONFIG, CONTROL, VETHD, Service
from tests.lib.systemd_box import (
    REPO,
    SystemdBox,
    inhabitants,
    pid_namespace,
    systemd_box_fixture,
)
from tests.lib.wait import readable, wait_until

__all__ = ["systemd_box_fixture"]  # pytest knows it as systemd_box

UNITS = ("vethd.service", "vethd.socket", "vethd-fd.socket")
FDPASS = f"{CONTROL}.fd"
EXPOSURE = 25  # in tenths: what `systemd-analyze security` gives must be below
CAPABILITIES = 1 << 11 | 1 << 12 | 1 << 21  # NET_BROADCAST, NET_ADMIN, SYS_ADMIN
STOP_S = 15.0  # when systemd would kill it

TWO_NETNS = """
[[pair]]
name = "va"
netns = "red"
up = true

[pair.peer]
name = "vb"
netns = "blue"
up = true
"""
ONE_MORE = """
[[pair]]
name = "more0"
[pair.peer]
name = "more1"
"""


@pytest.fixture
def service(systemd_box: SystemdBox) -> Service:
    return Service(systemd_box)


def make_netns(box: SystemdBox) -> None:
    for netns in ("red", "blue"):
        box.output("ip", "netns", "add", netns)


def test_units_are_valid(service: Service) -> None:
    done = service.box.run("systemd-analyze", "verify", "--man=no", *(f"/etc/systemd/system/{unit}" for unit in UNITS))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_exposure_is_small(service: Service) -> None:
    shipped = str(REPO / "systemd" / "vethd.service")
    service.box.output(
        "systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={EXPOSURE}", shipped
    )


def test_runs_as_its_user_with_three_capabilities(service: Service) -> None:
    service.start()
    assert service.state == "active"
    status = dict(line.split(":\t", 1) for line in service.proc("status").splitlines() if ":\t" in line)
    user = service.box.output("id", "-u", "vethd").strip()
    group = service.box.output("id", "-g", "vethd").strip()
    assert set(status["Uid"].split()) == {user}
    assert set(status["Gid"].split()) == {group}
    assert user != "0"
    for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == CAPABILITIES, kind
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_the_sandbox_allows_the_native_engine(service: Service) -> None:
    service.box.write(CONFIG, f'engine = "native"\n{TWO_NETNS}')
    make_netns(service.box)
    service.start()
    engine = service.get("/v1/engine")
    assert (engine["name"], engine["fallback"]) == ("native", "")
    service.wait_pairs(lambda pairs: pairs["va"]["state"] == "alive")
    service.ping()


def test_tells_systemd_how_it_is(service: Service) -> None:
    service.configure(ONE_MORE)
    service.start()
    assert service.box.show("vethd.service", "StatusText") == "1 pairs, 0 waiting; at the start 1 created"


def test_sockets_may_be_kept_for_the_group(service: Service) -> None:
    """By somebody's drop-in; as shipped anybody may connect."""
    for unit in ("vethd.socket", "vethd-fd.socket"):
        service.box.write(f"/etc/systemd/system/{unit}.d/mode.conf", "[Socket]\nSocketMode=0660\n")
    service.box.output("systemctl", "daemon-reload")
    service.start()
    for path in (CONTROL, FDPASS):
        assert service.box.output("stat", "--format=%a %G", path).strip() == "660 vethd"
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    refused = service.box.run("setpriv", "--reuid=nobody", "--clear-groups", python, "-c", connect, CONTROL)
    assert "PermissionError" in refused.stderr
    service.box.output("setpriv", "--reuid=nobody", "--regid=vethd", "--clear-groups", python, "-c", connect, CONTROL)


@pytest.mark.parametrize("path", [CONTROL, FDPASS])
def test_first_connection_starts_it(service: Service, path: str) -> None:
    service.box.output("systemctl", "start", "vethd.socket", "vethd-fd.socket")
    assert service.state == "inactive"
    inode = service.box.path(path).stat().st_ino
    if path == CONTROL:
        assert service.get("/v1/health")["status"] == "ok"
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(service.box.path(path)))
            sock.send(b'{"method": "GET", "path": "/v1/health"}')
            assert readable(sock.fileno(), ACTIVE_S), service.box.journal()
            assert json.loads(sock.recv(1 << 16))["status"] == 200
    wait_until(lambda: service.state == "active", ACTIVE_S)
    assert service.box.path(path).stat().st_ino == inode  # systemd's socket, not one of our own in its place


def test_restart_keeps_the_sockets(service: Service) -> None:
    service.start()
    inodes = [service.box.path(path).stat().st_ino for path in (CONTROL, FDPASS)]
    service.box.output("systemctl", "restart", "vethd.service")
    assert [service.box.path(path).stat().st_ino for path in (CONTROL, FDPASS)] == inodes
    assert service.get("/v1/health")["pid"] == service.pid


def test_pair_between_namespaces_made_after_the_start(service: Service) -> None:
    service.start()
    make_netns(service.box)
    vethctl = str(VETHD.with_name("vethctl"))
    service.box.output(
        vethctl, "add", "va", "--netns", "red", "--up", "--peer", "vb", "--peer-netns", "blue", "--peer-up"
    )
    service.ping()


def test_saved_pair_is_made_again(service: Service) -> None:
    """The state directory is the service's own, writable through the sandbox."""
    service.start()
    vethctl = str(VETHD.with_name("vethctl"))
    service.box.output(vethctl, "add", "kept0", "--peer", "kept1")
    service.box.output(vethctl, "save")
    assert service.box.output("stat", "--format=%a %U", "/var/lib/vethd").strip() == "700 vethd"
    service.box.output("systemctl", "stop", "vethd.service")
    wait_until(lambda: service.devices() == set())
    service.start()
    assert service.devices() == {"kept0", "kept1"}


def test_declared_pair_waits_for_its_namespaces(service: Service) -> None:
    service.configure(TWO_NETNS)
    service.start()
    assert service.wait_pairs(lambda pairs: "va" in pairs)["va"]["state"] == "waiting"
    make_netns(service.box)
    service.wait_pairs(lambda pairs: pairs["va"]["state"] == "alive")
    wait_until(lambda: service.devices("red") == {"va"} and service.devices("blue") == {"vb"})
    service.ping()


def test_reload_changes_what_differs(service: Service) -> None:
    make_netns(service.box)
    service.configure(TWO_NETNS)
    service.start()
    pid = service.pid
    before = service.wait_pairs(lambda pairs: "va" in pairs)["va"]["links"]
    service.configure(TWO_NETNS + ONE_MORE)
    service.box.output("systemctl", "reload", "vethd.service")
    after = service.wait_pairs(lambda pairs: "more0" in pairs and pairs["more0"]["state"] == "alive")
    assert [link["ifindex"] for link in after["va"]["links"]] == [link["ifindex"] for link in before]
    assert service.pid == pid
    wait_until(lambda: service.state == "active")


def test_bad_reload_changes_nothing(service: Service) -> None:
    service.configure(ONE_MORE)
    service.start()
    pid = service.pid
    service.configure("no such key = 1")
    service.box.output("systemctl", "reload", "vethd.service")
    wait_until(lambda: any("refused" in line["event"] for line in service.log()))
    wait_until(lambda: service.state == "active")
    assert service.pid == pid
    assert service.devices() == {"more0", "more1"}


def test_watchdog_is_fed(service: Service) -> None:
    service.drop_in("watchdog", "WatchdogSec=1\n")
    service.start()
    pid = service.pid
    seen: set[str] = set()

    def fed() -> bool:
        seen.add(service.box.show("vethd.service", "WatchdogTimestampMonotonic"))
        return len(seen) > 4

    wait_until(fed, ACTIVE_S)
    assert service.pid == pid


def test_watchdog_ends_a_daemon_that_hangs(service: Service) -> None:
    service.configure(ONE_MORE)
    service.drop_in("watchdog", "WatchdogSec=1\nWatchdogSignal=SIGKILL\n")
    service.start()
    pid = service.pid
    service.box.output("kill", "-STOP", str(pid))
    wait_until(partial(service.restarted, 0), ACTIVE_S)
    wait_until(lambda: service.state == "active", ACTIVE_S)
    assert service.pid != pid
    assert service.devices() == {"more0", "more1"}


def test_is_started_again_however_often_it_is_killed(service: Service) -> None:
    service.start()
    for restarts in range(7):  # systemd's own limit is five in ten seconds
        service.box.output("kill", "-KILL", str(service.pid))
        wait_until(partial(service.restarted, restarts), ACTIVE_S)
        wait_until(lambda: service.state == "active", ACTIVE_S)
    assert service.get("/v1/health")["status"] == "ok"


def test_stop_takes_the_links_away(service: Service) -> None:
    make_netns(service.box)
    service.configure(TWO_NETNS)
    service.start()
    service.wait_pairs(lambda pairs: pairs["va"]["state"] == "alive")
    start = time.monotonic()
    service.box.output("systemctl", "stop", "vethd.service")
    assert time.monotonic() - start < STOP_S
    assert service.state == "inactive"
    assert service.box.show("vethd.service", "Result") == "success"
    wait_until(lambda: service.devices("red") | service.devices("blue") == set())


def test_journal_is_json(service: Service) -> None:
    service.configure(ONE_MORE)
    service.start()
    service.box.output("systemctl", "stop", "vethd.service")
    log = service.log()
    assert {"started", "stopping"} <= {line["event"] for line in log}
    assert all({"event", "level", "timestamp"} <= line.keys() for line in log)


@pytest.mark.parametrize("snippet", [True, False])
def test_networkd_leaves_the_links_alone(service: Service, *, snippet: bool) -> None:
    """With our file in place; without it, the same networkd takes them: so the file is what does it."""
    box = service.box
    box.output("mount", "-o", "remount,ro", "/sys")  # as in a container: networkd then waits for no udev
    box.write(
        "/etc/systemd/network/99-all.network",
        "[Match]\nName=more*\n[Network]\nAddress=192.0.2.9/24\nLinkLocalAddressing=no\n",
    )
    if snippet:
        box.write("/etc/systemd/network/10-vethd.network", (REPO / "configs" / "10-vethd.network").read_text())
    service.configure(ONE_MORE.replace("[pair.peer]", "up = true\n[pair.peer]") + "up = true\n")
    service.start()
    box.output("systemctl", "start", "systemd-networkd.service")

    def setup() -> set[str]:
        links = [line.split() for line in box.output("networkctl", "--no-legend", "list").splitlines()]
        found = {link[4] for link in links if link[1].startswith("more")}
        return found if not found & {"initialized", "pending", "configuring"} else set()

    wait_until(setup, ACTIVE_S)
    has_address = "192.0.2.9" in box.output("ip", "address")
    assert (setup(), has_address) == (({"unmanaged"}, False) if snippet else ({"configured"}, True))


def test_the_box_leaves_no_trace() -> None:
    def traces() -> set[str]:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        groups = [str(path) for path in Path("/sys/fs/cgroup").rglob("vethd-box*")]
        directories = [str(path) for path in Path(tempfile.gettempdir()).glob("vethd-box*")]
        return {*mounts, *groups, *directories}

    before = traces()
    with SystemdBox() as box:
        box.output("ip", "netns", "add", "red")
        forgotten = box.popen(["sleep", "infinity"])
        namespace = pid_namespace(box.pid)
        assert len(inhabitants(namespace)) >= 2
        assert traces() > before
    assert inhabitants(namespace) == []
    assert traces() == before
    forgotten.communicate()
