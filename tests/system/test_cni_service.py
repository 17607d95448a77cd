"""vethd-cni with the daemon as the service that it is shipped as: its user, its sandbox, its restarts."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest

from tests.lib.cni import REFERENCE
from tests.lib.service import CONTROL, Service
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture
from tests.lib.two_ends import back
from vethd.clients.cni.install import contents

pytestmark = pytest.mark.heavy
__all__ = ["systemd_box_fixture"]

PLUGIN = "/opt/vethd-cni"
CONF = {
    "cniVersion": "1.0.0",
    "name": "net",
    "type": "vethd-cni",
    "bridge": "cni7",
    "isGateway": True,
    "ipMasq": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.80.0.0/24"}], [{"subnet": "fd80::/64"}]]},
}


def call(box: SystemdBox, command: str, **more: Any) -> Any:
    """Call the plugin for the container red."""
    box.write("/tmp/conf.json", json.dumps(CONF | more))
    names = {
        "COMMAND": command,
        "CONTAINERID": "red",
        "NETNS": "/run/netns/red",
        "IFNAME": "eth0",
        "PATH": str(REFERENCE),
    }
    environ = [f"CNI_{key}={value}" for key, value in names.items()]
    out = box.output("env", f"VETHD_SOCKET={CONTROL}", *environ, "sh", "-c", f"{PLUGIN} < /tmp/conf.json")
    return json.loads(out) if out else {}


def test_attachment_by_the_service(systemd_box: SystemdBox) -> None:
    """It needs no more rights than the service has, and outlives a restart and a kill.

    The service's own /proc/sys is read-only: sysctls are set through the plugin's.
    """
    box = systemd_box
    service = Service(box)
    service.start()
    box.write(PLUGIN, contents(os.path.realpath(sys.executable)).decode())
    box.output("chmod", "755", PLUGIN)
    box.output("ip", "netns", "add", "red")
    box.output("ip", "netns", "exec", "red", "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    result = call(box, "ADD")
    names = [link["name"] for link in result["interfaces"] if "sandbox" not in link]
    assert [box.output("cat", f"/proc/sys/net/ipv6/conf/{name}/accept_ra") for name in names] == ["0\n"] * 2
    notify = box.output("ip", "netns", "exec", "red", "cat", "/proc/sys/net/ipv4/conf/eth0/arp_notify")
    assert notify == "1\n"
    for kill in (("systemctl", "restart", "vethd.service"), ("systemctl", "kill", "-sKILL", "vethd.service")):
        for address in ("10.80.0.2", "fd80::2"):
            box.output("ping", "-c1", "-W20", address)
        assert call(box, "CHECK", prevResult=result) == {}
        pid = service.pid
        box.output(*kill)
        back(service, pid)
    assert [one["container"] for one in service.get("/v1/attachments")] == ["red"]
    assert call(box, "DEL") == {}
    assert service.devices("red") == set()
    assert service.devices() == {"cni7"}
    assert service.get("/v1/attachments") == []
