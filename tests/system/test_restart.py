"""A restart of the service: devices, addresses, carrier, counters and queued frames stay, and so do run-time pairs.

red [va 10.6.0.1] ---- vethd, restarted and killed ---- [vb 10.6.0.2] blue
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lib.service import CONTROL, VETHD, Service
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture
from tests.lib.wait import wait_until

__all__ = ["systemd_box_fixture"]

VETHCTL = str(VETHD.with_name("vethctl"))
BACK_S = 20.0

# Numbered datagrams, one each 4 ms, until stdin closes; then how many were sent.
SENDER = """
import select, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("10.6.0.2", 7))
n = 0
while not select.select([sys.stdin], [], [], 0.004)[0]:
    s.send(n.to_bytes(8, "big"))
    n += 1
print(n)
"""
# Counts what comes, in order, until nothing has come for a while.
RECEIVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
s.bind(("10.6.0.2", 7))
print("ready", flush=True)
expected = missing = late = 0
s.settimeout(15)
while True:
    try:
        number = int.from_bytes(s.recv(8), "big")
    except TimeoutError:
        break
    s.settimeout(2)
    missing += max(number - expected, 0)
    late += number < expected
    expected = max(number + 1, expected)
print(expected, missing, late)
"""


@pytest.fixture
def service(systemd_box: SystemdBox) -> Service:
    """The service in a box, with a run-time pair up between two namespaces."""
    service = Service(systemd_box)
    service.configure("")
    service.start()
    for name in ("red", "blue"):
        systemd_box.output("ip", "netns", "add", name)
    add = "add va --netns red --up --peer vb --peer-netns blue --peer-up"
    systemd_box.output(VETHCTL, "--socket", CONTROL, *add.split())
    systemd_box.output("ip", "-n", "red", "addr", "add", "10.6.0.1/24", "dev", "va")
    systemd_box.output("ip", "-n", "blue", "addr", "add", "10.6.0.2/24", "dev", "vb")
    systemd_box.output("ip", "netns", "exec", "red", "ping", "-c1", "-W5", "10.6.0.2")
    return service


def link(service: Service, netns: str, name: str) -> dict[str, Any]:
    """Read a link as the kernel shows it."""
    return json.loads(service.box.output("ip", "-n", netns, "-d", "-s", "-j", "link", "show", name))[0]  # type: ignore[no-any-return]


def identity(service: Service) -> list[Any]:
    """What of both devices a restart must not move."""
    keys = ("ifindex", "address", "mtu", "operstate", "ifalias", "flags", "qdisc")
    found: list[Any] = [
        {key: link(service, netns, name).get(key) for key in keys} for netns, name in (("red", "va"), ("blue", "vb"))
    ]
    return [*found, [stats["carrier_changes"] for stats in service.get("/v1/stats")]]


def back(service: Service, old_pid: int) -> None:
    """Wait until another process serves the pair."""
    wait_until(lambda: service.state == "active" and service.pid not in (0, old_pid), BACK_S, "the service is back")
    assert [pair["state"] for pair in service.get("/v1/pairs")] == ["alive"]


def test_a_run_time_pair_survives_restarts_without_a_frame_lost(service: Service) -> None:
    box = service.box
    before, stats = identity(service), service.get("/v1/stats")
    receiver = box.popen(["ip", "netns", "exec", "blue", "python3", "-c", RECEIVER])
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    sender = box.popen(["ip", "netns", "exec", "red", "sh", "-c", 'sleep 60 | python3 -c "$0" & wait $!', SENDER])
    for _ in range(3):
        pid = service.pid
        box.output("systemctl", "restart", "vethd.service")
        back(service, pid)
    box.output("pkill", "-n", "-x", "sleep")
    sent = int(sender.communicate(timeout=30)[0])
    expected, missing, late = map(int, receiver.communicate(timeout=30)[0].split())
    assert (expected, missing, late) == (sent, 0, 0)
    assert identity(service) == before
    after = service.get("/v1/stats")
    for old, new in zip(stats, after, strict=True):
        assert new["read"] == new["forwarded"] + sum(v for k, v in new["drops"].items() if "kernel" not in k)
        assert new["forwarded"] >= old["forwarded"]
    assert after[0]["forwarded"] - stats[0]["forwarded"] >= sent


def test_a_run_time_pair_survives_kills(service: Service) -> None:
    before = identity(service)
    for _ in range(3):
        pid = service.pid
        service.box.output("kill", "-9", str(pid))
        back(service, pid)
        service.box.output("ip", "netns", "exec", "red", "ping", "-c1", "-W5", "10.6.0.2")
    assert identity(service) == before


def test_what_is_deleted_does_not_come_back(service: Service) -> None:
    box = service.box
    box.output(VETHCTL, "--socket", CONTROL, "del", "va", "--netns", "red")
    for netns, name in (("red", "va"), ("blue", "vb")):
        assert box.run("ip", "-n", netns, "link", "show", name).returncode == 1
    box.output("systemctl", "restart", "vethd.service")
    assert service.get("/v1/pairs") == []


def test_stop_takes_the_devices_away(service: Service) -> None:
    box = service.box
    box.output("systemctl", "stop", "vethd.service", "vethd.socket", "vethd-fd.socket")
    gone = lambda: box.run("ip", "-n", "red", "link", "show", "va").returncode == 1  # noqa: E731
    wait_until(gone, BACK_S, "the device is gone")


def test_counters_go_on_frame_by_frame(service: Service) -> None:
    """Frames that were written together, and frames that died in the daemon, are as many after a restart as before."""
    box = service.box
    send = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('10.6.0.2', 7))\n"
    send += "for n in range(32): s.send(bytes(100))"

    def burst(*then: str) -> None:
        box.output("kill", "-STOP", str(service.pid))
        box.output("ip", "netns", "exec", "red", "python3", "-c", send)
        if then:
            box.output(*then)
        box.output("kill", "-CONT", str(service.pid))

    def counted() -> list[dict[str, Any]]:
        keys = ("read", "read_bytes", "forwarded", "forwarded_bytes", "in_flight", "write_errors")
        stats = service.get("/v1/stats")
        engine = [{key: count for key, count in end["drops"].items() if "kernel" not in key} for end in stats]
        return [{key: end[key] for key in keys} | drops for end, drops in zip(stats, engine, strict=True)]

    for netns in ("red", "blue"):
        box.output("ip", "netns", "exec", netns, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    first = counted()[0]["read"]
    burst()
    wait_until(lambda: counted()[0]["forwarded"] >= first + 32, BACK_S, "a burst arrived")
    burst("ip", "-n", "blue", "link", "set", "vb", "down")
    wait_until(lambda: counted()[0]["read"] >= first + 64, BACK_S, "a burst was read")
    before = counted()
    assert sum(before[0].get(reason, 0) for reason in ("peer_down", "no_carrier", "stale")) >= 32
    pid = service.pid
    box.output("systemctl", "restart", "vethd.service")
    back(service, pid)
    assert counted() == before
