"""A pair whose daemon can be held: what is sent meanwhile waits in the TAP, and is read as one batch.

Nothing else decides whether frames meet in a batch, so a test of coalescing can have it as it wants.
"""

from __future__ import annotations

import hashlib
import select
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from random import Random
from typing import NamedTuple

import msgspec

from tests.lib.lab import End, Lab, Wire
from tests.lib.netns import Netns
from tests.lib.packet import SO_RCVBUFFORCE
from tests.lib.site import Site
from tests.lib.sockets import udp_socket
from tests.lib.wait import DEADLINE_S, wait_until
from vethd.control import Client
from vethd.model.api import LinkStats

MTU = 1500
TTL = 64
HEADERS = {socket.AF_INET: 20 + 8, socket.AF_INET6: 40 + 8}
IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
ASK = {socket.AF_INET: ((IP, 12), (IP, 13)), socket.AF_INET6: ((IPV6, 51), (IPV6, 66))}  # to be told TTL and TOS
TOLD = {socket.AF_INET: ((IP, 2), (IP, 1)), socket.AF_INET6: ((IPV6, 52), (IPV6, 67))}  # TTL and TOS


class HeldPair:
    """A live pair va, vb of a daemon."""

    def __init__(self, site: Site, lab: Lab, near: Netns, far: Netns) -> None:
        """Make it and bring it up."""
        self.site = site
        self.client = Client(str(site.socket))
        pair = site.post({"name": "va", "netns": near.name, "peer": {"name": "vb", "netns": far.name}})
        self.path = f"/v1/pairs/{pair['id']}"
        self.wire: Wire = lab.wire(near, far)
        self.wire.up()

    def set_gro(self, *, gro: bool) -> None:
        """Turn coalescing on or off, live."""
        status, body = self.site.daemon.request("PATCH", self.path, msgspec.json.encode({"gro": gro}))
        assert (status, body["gro"]) == (200, gro)

    def held(self) -> AbstractContextManager[None]:
        """Have the daemon do nothing meanwhile."""
        return self.site.daemon.stopped()

    def stats(self) -> LinkStats:
        """Count what va sent, as the daemon does."""
        return self.client.link_stats("va", self.wire.a.netns.name)

    def _counted(self) -> tuple[int, int] | None:
        """Return how many of va's frames were forwarded and how many came to vb, as of one moment."""
        before, came, after = self.stats(), self.wire.b.link.stats.rx_packets, self.stats()
        return (before.forwarded, came) if before.read == after.read and not before.in_flight else None

    @contextmanager
    def crossing(self, *, gro: bool) -> Iterator[None]:
        """See that what va sends meanwhile comes to vb as as many frames, or with gro as at most four fifths of them.

        The daemon counts what was sent, either way.
        """
        self.set_gro(gro=gro)
        begin = wait_until(self._counted, what="a moment without frames of the stacks' own")
        assert begin is not None
        before, came_before = begin
        yield

        def balance() -> tuple[int, int] | None:
            now = self.stats()
            came = self.wire.b.link.stats.rx_packets - came_before
            sent = now.forwarded - before
            return (sent, came) if now.in_flight == 0 and (gro or came == sent) else None

        found = wait_until(balance, what="as many frames there as were forwarded")
        assert found is not None
        sent, came = found
        assert 0 < came <= (sent * 4 // 5 if gro else sent), f"{sent} frames were sent, {came} came"


class Datagram(NamedTuple):
    """What is sent on one of several flows."""

    flow: int
    payload: bytes
    tos: int = 0


class Flows:
    """UDP flows of every kind: IPv4 and IPv6, from sockets that are connected and sockets that are not."""

    def __init__(
        self, stack: ExitStack, near: Netns, far: Netns, sources: Sequence[str], targets: Sequence[str]
    ) -> None:
        """Open two flows of each kind, from each source to the target in its place; all have been used once."""
        self.ends: list[tuple[socket.socket, socket.socket, bool]] = []
        for source, target in zip(sources, targets, strict=True):
            for connected in (True, False, True, False):
                left = stack.enter_context(udp_socket(near, source))
                right = stack.enter_context(udp_socket(far, target))
                left.sendto(b"hello", right.getsockname())  # now addresses are resolved
                assert right.recv(16) == b"hello"
                if connected:
                    left.connect(right.getsockname())
                right.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
                for option in ASK[right.family]:
                    right.setsockopt(*option, 1)
                self.ends.append((left, right, connected))

    def send(self, datagrams: Sequence[Datagram]) -> None:
        """Send them all, in this order."""
        for flow, payload, tos in datagrams:
            left, right, connected = self.ends[flow]
            left.setsockopt(*TOLD[left.family][1], tos)
            if connected:
                left.send(payload)
            else:
                left.sendto(payload, right.getsockname())

    def check(self, datagrams: Sequence[Datagram], ttl: int = TTL) -> None:
        """Receive them all; see that every flow has its own, in order, each with its length, TTL and TOS."""
        for number, (left, right, _) in enumerate(self.ends):
            name = left.getsockname()
            for place, (_, payload, tos) in enumerate(one for one in datagrams if one.flow == number):
                data, ancillary, flags, source = right.recvmsg(1 << 16, 256)
                said = {(level, kind): int.from_bytes(value[:4], sys.byteorder) for level, kind, value in ancillary}
                found = (data, *(said[what] for what in TOLD[right.family]), flags, source)
                wanted = (payload, ttl, tos, 0, name)
                assert found == wanted, f"flow {number}, datagram {place}: {len(data)} of {len(payload)} bytes"


def datagrams(random: Random, flows: Flows, count: int) -> list[Datagram]:
    """Return datagrams for several flows in turn: runs of one size, random sizes, some of none, now and then a TOS."""
    out: list[Datagram] = []
    longest = [MTU - HEADERS[left.family] for left, _, _ in flows.ends]
    tos = 0
    while len(out) < count:
        which = random.sample(range(len(longest)), random.randint(1, 4))
        size = random.choice((0, 1, 2, 64, random.randint(3, MTU), MTU))
        same = random.random() < 0.8
        if random.random() < 0.2:
            tos = random.choice((0, 0, 0x10, 0x48))
        for _ in range(random.randint(1, 20)):
            for flow in which:
                length = min(size if same else random.randint(0, MTU), longest[flow])
                out.append(Datagram(flow, random.randbytes(length), tos))
    return out[:count]


@contextmanager
def tcp_pair(near: Netns, far: Netns, far_ip: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield two connected TCP sockets: near's, which does not block, and far's, whose receives end after DEADLINE_S."""
    kind = socket.AF_INET6 if ":" in far_ip else socket.AF_INET
    with ExitStack() as stack:
        listener = stack.enter_context(far.run(socket.socket, kind, socket.SOCK_STREAM))
        listener.settimeout(DEADLINE_S)
        listener.bind((far_ip, 0))
        listener.listen()
        client = stack.enter_context(near.run(socket.socket, kind, socket.SOCK_STREAM))
        client.settimeout(DEADLINE_S)
        client.connect(listener.getsockname())
        client.setblocking(False)
        server = stack.enter_context(listener.accept()[0])
        server.settimeout(DEADLINE_S)
        yield client, server


def pour(*ways: tuple[socket.socket, socket.socket, bytes, int]) -> None:
    """Send each way's payload from its byte number sent on; see that the other end receives all of it.

    A way is a sender, a receiver, a payload, and how much of it was sent already.
    """
    unsent = {source: memoryview(payload)[sent:] for source, _, payload, sent in ways}
    digests = {sink: hashlib.sha256() for _, sink, _, _ in ways}
    missing = {sink: len(payload) for _, sink, payload, _ in ways}
    while any(missing.values()):
        readers = [sink for sink, size in missing.items() if size]
        writers = [source for source, rest in unsent.items() if rest]
        ready = select.select(readers, writers, [], DEADLINE_S)
        assert any(ready), f"missing: {list(missing.values())}"
        for sink in ready[0]:
            data = sink.recv(1 << 16)
            digests[sink].update(data)
            missing[sink] -= len(data)
        for source in ready[1]:
            unsent[source] = unsent[source][source.send(unsent[source]) :]
    for _, sink, payload, _ in ways:
        assert missing[sink] == 0
        assert digests[sink].digest() == hashlib.sha256(payload).digest()


def without_gso(*ends: End) -> None:
    """Have devices be given single segments."""
    for end in ends:
        end.netns.command("ethtool", "-K", end.name, "tso", "off", "gso", "off")
