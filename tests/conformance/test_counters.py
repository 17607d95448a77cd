"""Counters, exactly: N frames sent are N sent and N received, and every drop is somebody's.

    a: va ----N frames----> vb :b

Kernel: veth_get_stats64(). Lengths count the Ethernet header.
"""

from __future__ import annotations

import errno
import os

import pytest

from tests.lib.frames import sized
from tests.lib.lab import Lab, Wire
from tests.lib.rtnl import Stats
from tests.lib.sockets import exchange, udp_pair

N = 200


def test_new_pair_has_counted_nothing(live: Wire) -> None:
    assert live.a.link.stats == live.b.link.stats == Stats()


@pytest.mark.parametrize("length", [14, 60, 1514])
def test_exact(live: Wire, length: int) -> None:
    with live.a.packet() as sender, live.b.packet() as receiver:
        for n in range(N):
            sender.send(sized(length, n))
        for _ in range(N):
            receiver.recv()
    live.a.wait_stats(Stats(tx_packets=N, tx_bytes=N * length))
    live.b.wait_stats(Stats(rx_packets=N, rx_bytes=N * length))


def test_exact_both_ways(live: Wire) -> None:
    with live.a.packet() as left, live.b.packet() as right:
        for n in range(N):
            left.send(sized(100, n))
            right.recv()
            right.send(sized(300, n))
            left.recv()
    live.a.wait_stats(Stats(tx_packets=N, tx_bytes=N * 100, rx_packets=N, rx_bytes=N * 300))
    live.b.wait_stats(Stats(tx_packets=N, tx_bytes=N * 300, rx_packets=N, rx_bytes=N * 100))


def test_sockets_datagrams(live: Wire) -> None:
    """One by one, so that nobody has two to put together; neighbours are told, so that nobody asks."""
    near, far = live.addresses()
    live.a.netns.ip(f"neigh add {far} lladdr {live.b.link.address} dev {live.a.name}")
    live.b.netns.ip(f"neigh add {near} lladdr {live.a.link.address} dev {live.b.name}")
    with udp_pair(live.a.netns, near, live.b.netns, far) as (left, right):
        for _ in range(N):
            exchange(left, right, b"x" * 58)
    for end in (live.a, live.b):
        end.wait_stats(Stats(tx_packets=N, tx_bytes=N * 100, rx_packets=N, rx_bytes=N * 100))


@pytest.mark.parametrize("which", ["near", "far"])
def test_peer_down(wire: Wire, which: str) -> None:
    """An end without carrier drops what is sent, and counts it; the peer counts nothing."""
    tx, rx = (wire.a, wire.b) if which == "near" else (wire.b, wire.a)
    wire.up()
    rx.down()
    tx.wait_carrier(False)
    with tx.packet() as sender:
        for n in range(N):
            sender.send(sized(60, n))
    assert tx.link.stats == Stats(tx_dropped=N)
    assert rx.link.stats == Stats()


def test_peer_never_up(wire: Wire) -> None:
    wire.a.up()
    wire.a.wait_carrier(False)
    with wire.a.packet() as sender:
        for n in range(N):
            sender.send(sized(60, n))
    assert wire.a.link.stats == Stats(tx_dropped=N)
    assert wire.b.link.stats == Stats()


def test_sender_down(live: Wire) -> None:
    with live.a.packet() as sender:
        live.a.down()
        with pytest.raises(OSError, match=os.strerror(errno.ENETDOWN)) as caught:
            sender.send(sized(60))
    assert caught.value.errno == errno.ENETDOWN
    assert live.a.link.stats == live.b.link.stats == Stats()


def test_nothing_stale_after_an_outage(live: Wire) -> None:
    """What was sent while the peer was away does not turn up later."""
    with live.a.packet() as sender, live.b.packet() as receiver:
        live.b.down()
        live.a.wait_carrier(False)
        for n in range(N):
            sender.send(sized(60, n))
        live.b.up()
        live.wait_carrier()
        receiver.forget_error()
        sender.send(sized(61, N))
        assert receiver.recv().frame == sized(61, N)
        assert not receiver.drained()
    live.a.wait_stats(Stats(tx_packets=1, tx_bytes=61, tx_dropped=N))
    live.b.wait_stats(Stats(rx_packets=1, rx_bytes=61))


def test_counters_outlive_down_and_up(live: Wire) -> None:
    with live.a.packet() as sender, live.b.packet() as receiver:
        sender.send(sized(60))
        receiver.recv()
        live.a.down()
        live.b.down()
        live.wait_carrier(False)
        live.up()
        for sock in (sender, receiver):
            sock.forget_error()
        sender.send(sized(60))
        receiver.recv()
    live.a.wait_stats(Stats(tx_packets=2, tx_bytes=120))
    live.b.wait_stats(Stats(rx_packets=2, rx_bytes=120))


def test_counters_stay_with_a_moved_end(lab: Lab, live: Wire) -> None:
    with live.a.packet() as sender, live.b.packet() as receiver:
        sender.send(sized(60))
        receiver.recv()
    live.b.netns.ip(f"link set dev {live.b.name} netns {lab.netns('c').name}")
    live.b.netns = lab.netnses[-1]
    live.b.wait_stats(Stats(rx_packets=1, rx_bytes=60))
