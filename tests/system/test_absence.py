"""What happens to a pair's devices while no daemon looks: the next one sets right what it keeps right otherwise.

red [va] ---- vethd, stopped, then killed ---- [vb] blue        green, empty
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lib.service import CONTROL, VETHD, Service
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture
from tests.lib.wait import wait_until

__all__ = ["systemd_box_fixture"]


@pytest.fixture
def service(systemd_box: SystemdBox) -> Service:
    """The service in a box, with a run-time pair up between two namespaces."""
    service = Service(systemd_box)
    service.start()
    for name in ("red", "blue", "green"):
        systemd_box.output("ip", "netns", "add", name)
    add = "add va --netns red --up --peer vb --peer-netns blue --peer-up"
    systemd_box.output(str(VETHD.with_name("vethctl")), "--socket", CONTROL, *add.split())
    return service


def qdisc(service: Service, netns: str, name: str) -> str:
    """Return the name of a device's root qdisc."""
    found: list[dict[str, Any]] = json.loads(service.box.output("tc", "-n", netns, "-j", "qdisc", "show", "dev", name))
    return str(found[0]["kind"])


def test_a_move_that_nobody_saw(service: Service) -> None:
    """noqueue again, as after any move; but not instead of a qdisc that somebody chose."""
    box = service.box
    box.output("tc", "-n", "blue", "qdisc", "replace", "dev", "vb", "root", "pfifo", "limit", "77")
    pid = service.pid
    box.output("kill", "-STOP", str(pid))
    box.output("ip", "-n", "red", "link", "set", "va", "netns", "green")
    box.output("ip", "-n", "green", "link", "set", "va", "up")
    assert qdisc(service, "green", "va") != "noqueue"
    box.output("kill", "-9", str(pid))
    wait_until(lambda: service.pid not in (0, pid) and service.state == "active", what="the service is back")
    wait_until(lambda: qdisc(service, "green", "va") == "noqueue", what="veth's qdisc")
    wait_until(lambda: all(link["carrier"] for link in service.get("/v1/links")), what="the carrier")
    assert qdisc(service, "blue", "vb") == "pfifo"
