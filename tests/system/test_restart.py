"""A restart of the service: devices, addresses, carrier, counters and queued frames stay, and so do run-time pairs.

red [va 10.6.0.1] ---- vethd, restarted and killed ---- [vb 10.6.0.2] blue
"""

from __future__ import annotations

from typing import Any

from tests.lib.service import CONTROL, VETHD, Service
from tests.lib.streams import Datagrams
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture
from tests.lib.two_ends import BACK_S, VETHCTL, back, identity, link, make_pair, two_ends_fixture
from tests.lib.wait import wait_until

__all__ = ["systemd_box_fixture", "two_ends_fixture"]


def test_a_run_time_pair_survives_restarts_without_a_frame_lost(service: Service) -> None:
    box = service.box
    before, stats = identity(service), service.get("/v1/stats")
    datagrams = Datagrams(box, rate=250)
    for _ in range(3):
        pid = service.pid
        box.output("systemctl", "restart", "vethd.service")
        back(service, pid)
    seen = datagrams.end()
    assert (seen.missing, seen.late) == (0, 0), seen
    assert identity(service) == before
    after = service.get("/v1/stats")
    for old, new in zip(stats, after, strict=True):
        drops = sum(count for reason, count in new["drops"].items() if "kernel" not in reason)
        assert new["read"] == new["forwarded"] + drops + new["in_flight"]
        assert new["forwarded"] >= old["forwarded"]
    assert after[0]["forwarded"] - stats[0]["forwarded"] >= seen.sent
    adopted = [line for line in service.log() if line["event"] == "started" and line["adopted"]]
    assert all(line["forwarding_after_ms"] > 0 for line in adopted)
    assert len(adopted) == 3
    print(
        f"forwarding again after {[line['forwarding_after_ms'] for line in adopted]} ms, longest gap {seen.gap_ms} ms"
    )


def test_a_run_time_pair_survives_kills(service: Service) -> None:
    before = identity(service)
    for _ in range(3):
        pid = service.pid
        service.box.output("kill", "-9", str(pid))
        back(service, pid)
        service.box.output("ip", "netns", "exec", "red", "ping", "-c1", "-W20", "10.6.0.2")
    assert identity(service) == before


def test_a_config_with_an_error_costs_no_frame(service: Service) -> None:
    """Every start that fails has forwarded for as long as it lived, and leaves in good order."""
    box, pid = service.box, service.pid
    datagrams = Datagrams(box, rate=250)
    service.configure("nonsense = 1")
    assert box.run("systemctl", "restart", "vethd.service").returncode == 1
    wait_until(lambda: service.restarted(2), BACK_S, "three starts that fail")
    service.configure("")
    back(service, pid)
    seen = datagrams.end()
    assert (seen.missing, seen.late) == (0, 0), seen


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


def test_replace_is_not_for_a_service(service: Service) -> None:
    """Neither side: not in a unit of its own, nor in the place of one whose devices systemd keeps."""
    done = service.box.run(str(VETHD), "--socket", CONTROL, "--replace")
    words = "systemd keeps this daemon's devices: use `systemctl restart`"
    assert (done.returncode, done.stderr) == (1, f"vethd: replace: handover: {words}\n")
    done = service.box.run("env", "NOTIFY_SOCKET=/run/none", str(VETHD), "--socket", CONTROL, "--replace")
    assert done.returncode == 1
    assert "use `systemctl restart`" in done.stderr
    service.box.output("ip", "netns", "exec", "red", "ping", "-c1", "-W20", "10.6.0.2")


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

    def settled() -> list[dict[str, Any]]:
        now = counted()
        return now if now[0]["read"] >= first + 64 and now[0]["in_flight"] == 0 and now == counted() else []

    before = wait_until(settled, BACK_S, "a burst was read")
    assert sum(before[0].get(reason, 0) for reason in ("peer_down", "no_carrier", "stale")) >= 32
    pid = service.pid
    box.output("systemctl", "restart", "vethd.service")
    back(service, pid)
    assert counted() == before


def test_a_latency_queue_stays(systemd_box: SystemdBox) -> None:
    """The devices keep both queues, in the fd store too, and the daemon knows again which of them comes first."""
    service = Service(systemd_box)
    make_pair(service, "--latency-queue")

    def has_it() -> list[Any]:
        (pair,) = service.get("/v1/pairs")
        kernel = [link(service, *end)["linkinfo"]["info_data"]["numqueues"] for end in (("red", "va"), ("blue", "vb"))]
        return [pair["spec"]["latency_queue"], *kernel, *(end["queues"] for end in pair["links"])]

    before = identity(service)
    for command in ("systemctl restart vethd.service", "kill -9 {pid}"):
        assert has_it() == [True, 2, 2, 2, 2]
        pid = service.pid
        service.box.output(*command.format(pid=pid).split())
        back(service, pid)
        service.box.output("ip", "netns", "exec", "red", "ping", "-c1", "-W20", "10.6.0.2")
    assert has_it() == [True, 2, 2, 2, 2]
    assert identity(service) == before
