""".netdev files: what vethctl makes of them beside what systemd-networkd makes of them with the kernel's veth."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lib.service import VETHD, Service
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture
from tests.lib.wait import wait_until

__all__ = ["systemd_box_fixture"]  # pytest knows it as systemd_box

pytestmark = pytest.mark.heavy

CONFIG = "/etc/systemd/network"
VETHCTL = str(VETHD.with_name("vethctl"))
THERE = "there"
SAME = ("ifname", "mtu", "operstate", "txqlen", "group", "promiscuity")
FILES = {
    "plain": """\
[NetDev]
Name=plain0
Kind=veth
[Peer]
Name=plain1
""",
    "full": """\
# a comment
[NetDev]
Description=all of it
Name=full0
Kind=veth
MTUBytes=4K
MACAddress=02-00-00-00-00-0a

[Peer]
Name=full1
MACAddress=0200.0000.000b
""",
    "odd": """\
; twice
[Peer]
Name=odd\\
; between
1
[NetDev]
Name = other
  Name =  odd0
Kind=veth
MTUBytes=9000
MTUBytes=2K
X-Mine=1
[Peer]
Name=odd1
[NetDev]
MACAddress=2:0:0:0:0:c
""",
}
MTU = {"plain": 1500, "full": 4096, "odd": 2048}


def links(box: SystemdBox, netns: str = "") -> dict[str, Any]:
    """Return the links of the files, by name; those of THERE, or networkd's in the box's own namespace."""
    said = box.output("ip", *(["-n", netns] if netns else []), "-json", "-details", "link")
    found = {link["ifname"]: link for link in json.loads(said)}
    return {name: found[name] for name in found if name[:-1] in FILES}


def test_the_same_file_makes_the_same_pair(systemd_box: SystemdBox) -> None:
    box = systemd_box
    service = Service(box)
    service.start()
    box.output("ip", "netns", "add", THERE)
    for name, text in FILES.items():
        box.write(f"{CONFIG}/{name}.netdev", text)
    apply = [["ip", "netns", "exec", THERE, VETHCTL, "apply", f"{CONFIG}/{name}.netdev"] for name in FILES]
    made = [box.output(*argv) for argv in apply]
    assert [line.split()[0] for line in made] == ["create"] * len(FILES)
    assert [box.output(*argv) for argv in apply] == [""] * len(FILES)

    box.output("systemctl", "start", "systemd-networkd.service")
    wait_until(lambda: len(links(box)) == 2 * len(FILES), what="networkd's links")
    ours, theirs = links(box, THERE), links(box)
    assert set(ours) == set(theirs)
    for name, link in theirs.items():
        assert link["linkinfo"]["info_kind"] == "veth"
        assert ours[name]["linkinfo"]["info_kind"] == "tun"
        assert [ours[name][key] for key in SAME] == [link[key] for key in SAME]
        if name in ("full0", "full1", "odd0"):
            assert ours[name]["address"] == link["address"]
        assert "UP" not in ours[name]["flags"] + link["flags"]
        assert link["mtu"] == MTU[name[:-1]]
