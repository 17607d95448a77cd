"""The service in a box, and a run-time pair of its own: what a restart is tried on.

red [va 10.6.0.1] ---- vethd ---- [vb 10.6.0.2] blue
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lib.service import CONTROL, VETHD, Service
from tests.lib.systemd_box import SystemdBox
from tests.lib.wait import wait_until

VETHCTL = str(VETHD.with_name("vethctl"))
BACK_S = 60.0


def make_pair(service: Service, *more: str) -> None:
    """Start the service, and make a pair that is up, with addresses."""
    box = service.box
    service.start()
    for name in ("red", "blue"):
        box.output("ip", "netns", "add", name)
    add = "add va --netns red --up --peer vb --peer-netns blue --peer-up"
    box.output(VETHCTL, "--socket", CONTROL, *add.split(), *more)
    box.output("ip", "-n", "red", "addr", "add", "10.6.0.1/24", "dev", "va")
    box.output("ip", "-n", "blue", "addr", "add", "10.6.0.2/24", "dev", "vb")
    box.output("ip", "-n", "red", "neighbour", "add", "10.6.0.9", "lladdr", "02:00:00:00:00:09", "dev", "va")
    box.output("ip", "-n", "red", "route", "add", "10.7.0.0/16", "via", "10.6.0.9", "dev", "va")
    box.output("ip", "netns", "exec", "red", "ping", "-c1", "-W20", "10.6.0.2")


@pytest.fixture(name="service")
def two_ends_fixture(systemd_box: SystemdBox) -> Service:
    """Return the service in a box, with a run-time pair up between two namespaces."""
    service = Service(systemd_box)
    make_pair(service)
    return service


def link(service: Service, netns: str, name: str) -> dict[str, Any]:
    """Read a link as the kernel shows it."""
    return json.loads(service.box.output("ip", "-n", netns, "-d", "-s", "-j", "link", "show", name))[0]  # type: ignore[no-any-return]


def identity(service: Service) -> list[Any]:
    """Return what of both devices a restart must not move."""
    keys = ("ifindex", "address", "mtu", "operstate", "ifalias", "flags", "qdisc")
    found: list[Any] = []
    for netns, name in (("red", "va"), ("blue", "vb")):
        found.append({key: link(service, netns, name).get(key) for key in keys})
        for what in ("address show", "route show", "neighbour show nud permanent"):
            found.append(service.box.output("ip", "-4", "-n", netns, *what.split(), "dev", name))  # noqa: PERF401
    return [*found, [stats["carrier_changes"] for stats in service.get("/v1/stats")]]


def back(service: Service, old_pid: int) -> None:
    """Wait until another process serves the pair."""
    # in this order: the state is then the new process's
    wait_until(lambda: service.pid not in (0, old_pid) and service.state == "active", BACK_S, "the service is back")
    assert [pair["state"] for pair in service.get("/v1/pairs")] == ["alive"]
