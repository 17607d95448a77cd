"""A file of 1 GiB each way, its hash compared; and a transfer over a bridge and a router.

a ==== (va) pair (vb) ==== b            h1 ==== p1 br0 p2 ==== h2
                                        h3 ==== p3
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import random
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

from tests.lib.lab import Lab, Wire
from tests.lib.netns import Netns
from tests.lib.programs import finish, ping, running
from tests.lib.sockets import tcp_transfer
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec

GIB = 1 << 30
BLOCK = 32 << 20
CHUNK = 1 << 20
TRANSFER_S = 60.0


@pytest.fixture(scope="session")
def gib() -> Iterator[tuple[IO[bytes], str]]:
    """Yield a file of 1 GiB, no two megabytes of which are alike, and its SHA-256."""
    block = random.Random(1).randbytes(BLOCK)
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as file:
        for n in range(GIB // BLOCK):
            at = n * 4099  # each time turned by a little more
            for part in (block[at:], block[:at]):
                file.write(part)
                digest.update(part)
        file.flush()
        yield file, digest.hexdigest()


class Receiver(threading.Thread):
    """Takes one connection and hashes all that comes."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(name="receiver")
        self.listener = listener
        self.digest = hashlib.sha256()
        self.received = 0

    def run(self) -> None:
        """Receive until the end, or until the socket's timeout."""
        buffer = memoryview(bytearray(CHUNK))
        sock, _ = self.listener.accept()
        with sock:
            sock.settimeout(TRANSFER_S)
            while length := sock.recv_into(buffer):
                self.digest.update(buffer[:length])
                self.received += length


def send_file(file: IO[bytes], sender: Netns, receiver: Netns, address: str) -> Receiver:
    """Send a file by sendfile() and return what became of it."""
    with receiver.run(socket.create_server, (address, 0)) as listener:
        listener.settimeout(TRANSFER_S)
        thread = Receiver(listener)
        thread.start()
        try:
            with sender.run(socket.socket) as sock:
                sock.settimeout(TRANSFER_S)
                sock.connect(listener.getsockname())
                sock.sendfile(file, 0)
        finally:
            thread.join()
    return thread


@pytest.mark.parametrize("back", [False, True], ids=["to", "from"])
def test_gibibyte(wire: Wire, gib: tuple[IO[bytes], str], back: bool) -> None:
    file, digest = gib
    ends = (wire.b, wire.a, "10.9.0.1") if back else (wire.a, wire.b, "10.9.0.2")
    got = send_file(file, ends[0].netns, ends[1].netns, ends[2])
    assert got.received == GIB
    assert got.digest.hexdigest() == digest
    stats = ends[1].link.stats
    assert stats.rx_bytes > GIB
    assert stats.rx_dropped == ends[0].link.stats.tx_dropped == 0


def test_over_a_bridge(bench: Lab) -> None:
    """Three hosts on a bridge: a transfer between two arrives whole, and the third sees next to nothing of it."""
    switch = bench.netns("s")
    switch.ip("link add name br0 type bridge", "link set br0 up")
    wires = []
    for n in (1, 2, 3):
        wire = bench.pair(bench.netns(f"h{n}"), switch, LinkSpec(name="e0"), LinkSpec(name=f"p{n}", master="br0"))
        wire.up()
        wire.a.address(f"10.9.0.{n}/24")
        wires.append(wire)
    one, two, three = (wire.a for wire in wires)
    for n in (2, 3):
        assert ping(one.netns, "-c", "1", "-w", "20", f"10.9.0.{n}").received == 1
    payload = random.Random(2).randbytes(BLOCK)
    before = three.link.stats
    for here, there, address in ((one, two, "10.9.0.2"), (two, one, "10.9.0.1")):
        assert tcp_transfer(here.netns, there.netns, address, payload) == payload
    assert (three.link.stats - before).rx_bytes < 10_000
    assert (three.link.stats - before).tx_bytes < 10_000


def test_path_mtu(bench: Lab) -> None:
    """A wide link, a router, a narrow one: the sender is told, learns, and a transfer gets through both ways."""
    a, router, b = bench.netns("a"), bench.netns("r"), bench.netns("b")
    router.sysctl("net/ipv4/ip_forward", "1")
    wide, narrow = LinkSpec(mtu=9000), LinkSpec(mtu=1400)
    left = bench.pair(a, router, wide, LinkSpec(name="r0", mtu=9000))
    right = bench.pair(router, b, LinkSpec(name="r1", mtu=1400), narrow)
    for wire in (left, right):
        wire.up()
    left.addresses("10.1.0")
    right.addresses("10.2.0")
    a.ip("route add default via 10.1.0.2")
    b.ip("route add default via 10.2.0.1")

    refused = finish(a, "ping", "-n", "-M", "do", "-c", "1", "-W", "20", "-s", "4000", "10.2.0.2")
    assert refused.code == 1
    assert re.search(r"\b1400\b", refused.output), refused.output
    assert "mtu 1400" in a.command("ip", "route", "get", "10.2.0.2")
    assert ping(a, "-M", "do", "-c", "1", "-w", "20", "-s", str(1400 - 28), "10.2.0.2").received == 1
    assert ping(a, "-M", "dont", "-c", "1", "-w", "20", "-s", "8000", "10.2.0.2").received == 1

    a.ip("route flush cache")
    payload = random.Random(3).randbytes(BLOCK)
    assert tcp_transfer(a, b, "10.2.0.2", payload) == payload
    assert tcp_transfer(b, a, "10.1.0.1", payload) == payload


def test_many_files_over_http(wire: Wire, tmp_path: Path) -> None:
    """A connection a file, a hundred files of 0 to 70 KB, from a real server."""
    files = {f"f{n}": random.Random(n).randbytes(n * n * 7) for n in range(100)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    argv = [sys.executable, "-u", "-m", "http.server", "8000", "--bind", "10.9.0.2", "--directory", str(tmp_path)]
    with running(wire.b.netns, *argv):
        listens = f":{8000:04X} 00000000:0000 0A"
        wait_until(lambda: listens in wire.b.netns.read("tcp"), what="the server listens")
        assert wire.a.netns.run(fetch, "10.9.0.2", 8000, list(files)) == files


def fetch(host: str, port: int, names: Sequence[str]) -> dict[str, bytes]:
    """Get files by HTTP, over a connection each."""
    found = {}
    for name in names:
        with contextlib.closing(http.client.HTTPConnection(host, port, timeout=TRANSFER_S)) as connection:
            connection.request("GET", f"/{name}")
            found[name] = connection.getresponse().read()
    return found
