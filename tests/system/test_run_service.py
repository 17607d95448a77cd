"""The drop-in of `vethd-run --install`, under the real systemd: a service's veths are vethd's."""

from __future__ import annotations

import json

from tests.lib.service import VETHD, Service
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture

__all__ = ["systemd_box_fixture"]  # pytest knows it as systemd_box

VETHD_RUN, VETHCTL = (str(VETHD.with_name(name)) for name in ("vethd-run", "vethctl"))
UNIT = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip link add fa type veth peer name fb
"""


def test_a_service(systemd_box: SystemdBox) -> None:
    """Its start waits for vethd; a restart works; what was installed is taken away again."""
    box = systemd_box
    Service(box)
    box.write("/etc/systemd/system/docker.service", UNIT)
    (said, _) = box.output(VETHD_RUN, "--install", "docker").splitlines()
    box.output("systemctl", "daemon-reload")
    box.output("systemctl", "start", "docker")
    assert box.run("systemctl", "is-active", "vethd").stdout.strip() == "active"
    assert ends(box) == {"fa", "fb"}
    box.output(VETHCTL, "del", "fa")
    box.output("systemctl", "restart", "docker")
    assert ends(box) == {"fa", "fb"}
    assert box.output(VETHD_RUN, "--uninstall", "docker").splitlines() == [said]
    assert not box.path(said).parent.exists()


def ends(box: SystemdBox) -> set[str]:
    """Return the names of the ends of vethd's pairs."""
    return {link["name"] for pair in json.loads(box.output(VETHCTL, "show", "--json")) for link in pair["links"]}
