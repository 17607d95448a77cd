"""How long a frame is its sender's: until it is delivered on veth, until the TAP has it on vethd.

    a: sender -> va ====> vb -> ifb0 with a shaper :b
    a: sender -> va with a shaper ====> vb :b

A socket that has SO_SNDBUF bytes under way blocks, or says EAGAIN. Kernel: skb->destructor, which veth leaves alone
and tun_net_xmit() calls (skb_orphan()).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

import pytest

from tests.lib.lab import End, Lab, Wire
from tests.lib.sockets import udp_pair
from tests.lib.wait import wait_until

N = 300  # more than SNDBUF holds, fewer than a TAP's queue
SNDBUF = 16384
TBF = ["root", "tbf", "rate", "8kbit", "burst", "2000", "limit", "4m"]


def shape_sender(end: End) -> None:
    """Slow down what the end sends to next to nothing."""
    end.netns.command("tc", "qdisc", "replace", "dev", end.name, *TBF)


def shape_receiver(end: End) -> None:
    """Slow down what the end receives, by a detour."""
    end.netns.ip("link add ifb0 type ifb", "link set ifb0 up")
    end.netns.command("tc", "qdisc", "add", "dev", "ifb0", *TBF)
    end.netns.command("tc", "qdisc", "add", "dev", end.name, "clsact")
    every = ("dev", end.name, "ingress", "protocol", "ip", "u32", "match", "u32", "0", "0")
    end.netns.command("tc", "filter", "add", *every, "action", "mirred", "egress", "redirect", "dev", "ifb0")


def unsent(sock: socket.socket) -> int:
    """Return the bytes that are still the sender's (SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


@pytest.mark.parametrize("where", ["sender", "receiver"])
def test_shaper_holds_up_the_sender(lab: Lab, live: Wire, where: str) -> None:
    """On vethd only a shaper at the sender's own end does."""
    near, far = live.addresses()
    with udp_pair(live.a.netns, near, live.b.netns, far) as (left, right):
        left.send(b"hello")
        assert right.recv(10) == b"hello"
        if where == "sender":
            shape_sender(live.a)
        else:
            shape_receiver(live.b)
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF)
        left.setblocking(False)
        sent = 0
        try:
            while sent < N:
                left.send(bytes(1400))
                sent += 1
        except BlockingIOError:
            assert unsent(left) > SNDBUF
        held_up = where == "sender" or not lab.backend.differs("socket-ends-at-the-tap")
        assert sent < N / 2 if held_up else sent == N
        if not held_up:
            wait_until(lambda: unsent(left) == 0, what="the TAP to have taken every frame")
