"""A pair's end in a container of systemd-nspawn and of LXC, and as a port of a Linux bridge and of Open vSwitch.

Each for real, beside vethd as a service, in a box with a systemd of its own: the sessions of docs/containers.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lib.service import VETHD, Service
from tests.lib.systemd_box import SystemdBox, systemd_box_fixture
from tests.lib.wait import wait_until

__all__ = ["systemd_box_fixture"]  # pytest knows it as systemd_box

pytestmark = pytest.mark.heavy

ROOT = "/srv/box"
VETHCTL = str(VETHD.with_name("vethctl"))
VETHD_RUN = str(VETHD.with_name("vethd-run"))
ADDRESS = ("192.0.2.1", "192.0.2.2")
LXC = f"""
lxc.uts.name = box
lxc.rootfs.path = dir:{ROOT}
lxc.mount.auto = proc:mixed sys:ro
lxc.net.0.type = phys
lxc.net.0.link = va
lxc.net.0.flags = up
lxc.net.0.ipv4.address = {ADDRESS[1]}/24
"""
NO_VB = "ip link show vb || echo vb-is-not-here"
# /sys/class/net is udev's to announce, and the box has none; of its rules those for networks are enough
UDEV = "cd /lib/udev/rules.d; ls | grep -v -e -net- | xargs rm; exec /lib/systemd/systemd-udevd --daemon"
OVS = """
mkdir -p /run/openvswitch
ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server /run/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock --detach --pidfile --log-file=/run/db.log
ovs-vsctl --no-wait init
ovs-vswitchd --detach --pidfile --log-file=/run/ovs.log
"""


@pytest.fixture
def box(systemd_box: SystemdBox) -> SystemdBox:
    """Return a box in which vethd runs, with the root of a container that holds busybox alone."""
    service = Service(systemd_box)
    service.start()
    for directory in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr"):
        systemd_box.path(f"{ROOT}/{directory}").mkdir(parents=True)
    systemd_box.output("sh", "-euc", f"cp /bin/busybox {ROOT}/bin; chroot {ROOT} /bin/busybox --install -s /bin")
    systemd_box.write(f"{ROOT}/etc/os-release", "ID=box\n")
    return systemd_box


def pair_for_a_container(box: SystemdBox) -> None:
    """Make va, and vb with an address, both in the box's own namespace."""
    box.output(VETHCTL, "add", "va", "--peer", "vb", "--peer-up")
    box.output("ip", "address", "add", f"{ADDRESS[0]}/24", "dev", "vb")


def assert_back(box: SystemdBox) -> None:
    """Wait until the container, which is gone, has given va back."""
    wait_until(lambda: "va" in box.run("ip", "-brief", "link", "show", "va").stdout, what="va, back")
    box.output("ip", "link", "set", "va", "up")
    wait_until(lambda: "LOWER_UP" in box.output("ip", "-brief", "link", "show", "va"), what="va's carrier")


def test_systemd_nspawn(box: SystemdBox) -> None:
    box.output("sh", "-c", UDEV)
    pair_for_a_container(box)
    box.output("udevadm", "settle")
    inside = f"ip address add {ADDRESS[1]}/24 dev va && ip link set va up && ping -c 3 {ADDRESS[0]}; {NO_VB}"
    said = box.run(
        *("systemd-run", "--wait", "--pipe", "--quiet", "systemd-nspawn", "--quiet", f"--directory={ROOT}"),
        *("--register=no", "--keep-unit", "--network-interface=va", "/bin/sh", "-c", inside),
    )
    assert re.search(r"[1-3] packets received", said.stdout), said
    assert "vb-is-not-here" in said.stdout, said
    assert_back(box)


def test_lxc(box: SystemdBox) -> None:
    pair_for_a_container(box)
    box.write("/root/lxc.conf", LXC)
    inside = f"ping -c 3 {ADDRESS[0]}; {NO_VB}"
    said = box.run("lxc-execute", "-n", "box", "-f", "/root/lxc.conf", "--", "/bin/sh", "-c", inside)
    assert re.search(r"[1-3] packets received", said.stdout), said
    assert "vb-is-not-here" in said.stdout, said
    assert_back(box)


def a_bridge(box: SystemdBox) -> None:
    """Make br0 with an address; a container's veth becomes its port."""
    box.output("ip", "link", "add", "br0", "type", "bridge")
    box.output("ip", "address", "add", f"{ADDRESS[0]}/24", "dev", "br0")
    box.output("ip", "link", "set", "br0", "up")


def number_of_a_new_pair(box: SystemdBox) -> int:
    """Make a pair and delete it; return its number: the daemon counts."""
    number = json.loads(box.output(VETHCTL, "add", "probe", "--json"))["id"].removeprefix("p")
    box.output(VETHCTL, "del", "probe")
    return int(number)


@contextmanager
def watched(box: SystemdBox) -> Iterator[None]:
    """Check that vethd makes a pair meanwhile, and that none is left."""
    before = number_of_a_new_pair(box)
    yield
    wait_until(lambda: not json.loads(box.output(VETHCTL, "show", "--json")), what="no pair")
    assert number_of_a_new_pair(box) == before + 2


def test_lxc_makes_its_veth_under_vethd_run(box: SystemdBox) -> None:
    """The container's own veth, unchanged configuration; the pair goes with the container."""
    a_bridge(box)
    box.write("/root/lxc.conf", LXC.replace("phys", "veth").replace("link = va", "link = br0"))
    lxc = ("lxc-execute", "-n", "box", "-f", "/root/lxc.conf", "--", "/bin/sh", "-c", f"ping -c 3 {ADDRESS[0]}")
    with watched(box):
        said = box.run(VETHD_RUN, *lxc)
        assert re.search(r"[1-3] packets received", said.stdout), said


def test_systemd_nspawn_makes_its_veth_under_vethd_run(box: SystemdBox) -> None:
    box.output("sh", "-c", UDEV)
    a_bridge(box)
    inside = f"ip address add {ADDRESS[1]}/24 dev host0 && ip link set host0 up && ping -c 3 {ADDRESS[0]}"
    with watched(box):
        said = box.run(
            *("systemd-run", "--wait", "--pipe", "--quiet", VETHD_RUN, "systemd-nspawn", "--quiet"),
            *(f"--directory={ROOT}", "--register=no", "--keep-unit", "--network-bridge=br0", "/bin/sh", "-c", inside),
        )
        assert re.search(r"[1-3] packets received", said.stdout), said


def two_on_a_switch(box: SystemdBox, *master: str) -> None:
    """Make two pairs, whose near ends wait for a switch, their peers in red and blue with an address each."""
    for near, netns, address in (("r0", "red", ADDRESS[0]), ("b0", "blue", ADDRESS[1])):
        box.output("ip", "netns", "add", netns)
        peer = ("--peer", "eth0", "--peer-netns", netns, "--peer-up")
        box.output(VETHCTL, "add", near, "--up", *master, *peer)
        box.output("ip", "-n", netns, "address", "add", f"{address}/24", "dev", "eth0")


def assert_talk(box: SystemdBox) -> None:
    """Ping, and then send by TCP, from red to blue."""
    red, blue = ("ip", "netns", "exec", "red"), ("ip", "netns", "exec", "blue")
    wait_until(lambda: box.run(*red, "ping", "-c", "1", "-W", "1", ADDRESS[1]).returncode == 0, what="an answer")
    box.output(*blue, "iperf3", "--server", "--one-off", "--daemon")
    wait_until(lambda: box.output(*blue, "ss", "-Hltn", "sport = :5201").strip(), what="iperf3's server")
    assert "receiver" in box.output(*red, "timeout", "30", "iperf3", "--client", ADDRESS[1], "--bytes", "10M")


def test_a_linux_bridge(box: SystemdBox) -> None:
    box.output("ip", "link", "add", "br0", "type", "bridge")
    box.output("ip", "link", "set", "br0", "up")
    two_on_a_switch(box, "--master", "br0")
    assert_talk(box)


def test_open_vswitch(box: SystemdBox) -> None:
    box.output("sh", "-euc", OVS)
    two_on_a_switch(box)
    box.output("ovs-vsctl", "add-br", "ovs0", "--", "set", "bridge", "ovs0", "datapath_type=netdev")
    box.output("ovs-vsctl", "add-port", "ovs0", "r0", "--", "add-port", "ovs0", "b0")
    for netns in ("red", "blue"):  # Open vSwitch's own condition, for a veth, too
        box.output("ip", "netns", "exec", netns, "ethtool", "-K", "eth0", "tx", "off")
    assert_talk(box)
    box.output("ovs-vsctl", "del-port", "r0")
    assert "r0" in box.output("ip", "-brief", "link", "show", "r0")
