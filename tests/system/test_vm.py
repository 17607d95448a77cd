"""A virtual machine on a bridge, and a namespace behind a pair whose near end is a port of the same bridge."""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lib.guest import Guest, guest
from tests.lib.lab import Lab, Wire
from tests.lib.netns import Netns
from vethd.model.spec import LinkSpec

pytestmark = pytest.mark.heavy

VM, HOST = "192.0.2.9", "192.0.2.2"
MAC = "52:54:00:00:00:09"
PORT = 5000
LEN_BYTES = 32 << 20
FRAME_MAX = 1514
TRANSFER_S = 60.0


class Place:
    """Where the guest lives: a bridge with its TAP and the pair's near end, the far end in a namespace of its own."""

    def __init__(self, vm: Guest, switch: Netns, wire: Wire) -> None:
        self.vm = vm
        self.switch = switch
        self.wire = wire
        self.host = wire.b.netns


@pytest.fixture
def place(lab: Lab, tmp_path: Path) -> Iterator[Place]:
    switch, host = lab.netns("switch"), lab.netns("host")
    switch.ip("link add br0 type bridge", "link set br0 up", "tuntap add tap0 mode tap vnet_hdr")
    switch.ip("link set tap0 master br0 up")
    wire = lab.pair(switch, host, LinkSpec(master="br0"))
    wire.up()
    host.ip(f"address add {HOST}/24 dev {wire.b.name}")
    with guest(tmp_path, switch, "tap0", MAC) as vm:
        vm.run(f"ip address add {VM}/24 dev eth0")
        yield Place(vm, switch, wire)
    switch.ip("link del tap0", "link del br0")


def test_a_guest_talks_to_a_namespace_and_feels_its_link_go(place: Place) -> None:
    vm, wire = place.vm, place.wire
    assert "3 packets received" in vm.run(f"ping -c 3 {HOST}")
    assert "1 received" in place.host.command("ping", "-c", "1", "-W", "20", "-s", "1472", "-M", "do", VM)

    wire.b.down()
    wire.a.wait_carrier(on=False)
    status, said = vm.ask(f"ping -c 2 -W 1 {HOST}")
    assert (status, "0 packets received" in said) == (1, True), said
    assert vm.run("cat /sys/class/net/eth0/carrier") == "1\n"  # docs/vm.md
    wire.b.up()
    wire.a.wait_carrier()
    vm.run(f"until ping -c 1 -W 1 {HOST}; do :; done")  # a bridge hears of its port's carrier once a second


def test_tcp_with_offloads_arrives_whole_both_ways_in_super_frames(place: Place) -> None:
    data = random.Random(1).randbytes(LEN_BYTES)
    vm, far = place.vm, place.wire.b
    server = place.host.run(socket.create_server, (HOST, PORT))
    server.settimeout(TRANSFER_S)

    with server, ThreadPoolExecutor(1) as thread:
        before = far.link.stats
        served = thread.submit(give, server, data)
        vm.run(f"nc {HOST} {PORT} >/file", deadline_s=TRANSFER_S)
        served.result()
        assert hashlib.sha256(data).hexdigest() in vm.run("sha256sum /file")
        between = far.link.stats
        given = (between.tx_bytes - before.tx_bytes) / (between.tx_packets - before.tx_packets)
        assert given > FRAME_MAX, "the guest was given no super-frames"

    vm.run("httpd -h /")  # which has the kernel send the file: nc's small pieces seldom wait for each other
    taken = place.host.run(socket.create_connection, (VM, 80), TRANSFER_S)
    with taken, taken.makefile("rb") as file:
        taken.sendall(b"GET /file HTTP/1.0\r\n\r\n")
        assert file.read().partition(b"\r\n\r\n")[2] == data
    after = far.link.stats
    sent = (after.rx_bytes - between.rx_bytes) / (after.rx_packets - between.rx_packets)
    assert sent > FRAME_MAX, "the guest sent no super-frames"


def give(server: socket.socket, data: bytes) -> None:
    """Send data to who connects."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(TRANSFER_S)
        connection.sendall(data)
