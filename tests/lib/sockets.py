"""UDP and TCP between two namespaces, from one thread: every wait has a deadline, nothing is sent twice."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.lib.netns import Netns
from tests.lib.wait import DEADLINE_S

CHUNK = 1 << 16


@contextlib.contextmanager
def udp_pair(a: Netns, a_ip: str, b: Netns, b_ip: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield two UDP sockets, connected to each other across whatever lies between a and b."""
    with contextlib.ExitStack() as stack:
        left = stack.enter_context(udp_socket(a, a_ip))
        right = stack.enter_context(udp_socket(b, b_ip))
        left.connect(right.getsockname())
        right.connect(left.getsockname())
        yield left, right


def udp_socket(netns: Netns, address: str, port: int = 0) -> socket.socket:
    """Return a UDP socket bound in netns; its receives end after DEADLINE_S."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = netns.run(socket.socket, family, socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE_S)
    sock.bind((address, port))
    return sock


def ping(a: Netns, a_ip: str, b: Netns, b_ip: str, *, data: bytes = b"ping") -> None:
    """Send data from a to b and back. Raises TimeoutError where it does not arrive."""
    with udp_pair(a, a_ip, b, b_ip) as (left, right):
        exchange(left, right, data)


def exchange(left: socket.socket, right: socket.socket, data: bytes) -> None:
    """Send data across a pair of connected sockets and back."""
    left.send(data)
    assert right.recv(CHUNK) == data
    right.send(data[::-1])
    assert left.recv(CHUNK) == data[::-1]


def tcp_transfer(a: Netns, b: Netns, b_ip: str, payload: bytes, deadline_s: float = 20.0) -> bytes:
    """Send payload over TCP from a to b and return what b received.

    Raises AssertionError after deadline_s.
    """
    return tcp_transfers(a, b, b_ip, [payload], deadline_s)[0]


def tcp_transfers(a: Netns, b: Netns, b_ip: str, payloads: Sequence[bytes], deadline_s: float = 20.0) -> list[bytes]:
    """Send each payload over a connection of its own from a to b, all at once; return what b received of each.

    Raises AssertionError after deadline_s.
    """
    received: dict[Any, bytearray] = {}
    unsent: dict[socket.socket, memoryview] = {}
    left = len(payloads)
    end = time.monotonic() + deadline_s
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(b.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM))
        listener.bind((b_ip, 0))
        listener.listen(len(payloads))
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(listener, selectors.EVENT_READ)
        for payload in payloads:
            client = stack.enter_context(a.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            selector.register(client, selectors.EVENT_WRITE)
            unsent[client] = memoryview(payload)
        names = [client.getsockname() for client in unsent]
        while left:
            events = selector.select(max(end - time.monotonic(), 0))
            assert events, (
                f"{sum(map(len, received.values()))} of {sum(map(len, payloads))} bytes within {deadline_s} s"
            )
            for key, _ in events:
                sock: Any = key.fileobj
                if sock is listener:
                    server, name = listener.accept()
                    stack.enter_context(server).setblocking(False)
                    selector.register(server, selectors.EVENT_READ, received.setdefault(name, bytearray()))
                elif sock in unsent:
                    rest = unsent[sock]
                    unsent[sock] = rest[sock.send(rest) :] if rest else rest
                    if not unsent[sock]:
                        selector.unregister(sock)
                        sock.shutdown(socket.SHUT_WR)
                elif data := sock.recv(CHUNK):
                    key.data.extend(data)
                else:
                    selector.unregister(sock)
                    left -= 1
    return [bytes(received[name]) for name in names]
