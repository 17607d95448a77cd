"""The longest frame that passes, to the byte: the receiver's MTU + 14 + 4, tagged or not; GSO frames are exempt.

    a: va (MTU 9000) ----frame----> vb (MTU m) :b

Kernel: is_skb_forwardable(). The sender's MTU is its own stack's business; here it is large, so that
AF_PACKET lets long frames go.
"""

from __future__ import annotations

import errno
import os

import pytest

from tests.lib.frames import (
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_IP,
    GSO_TCPV4,
    GSO_UDP_L4,
    NEEDS_CSUM,
    Vnet,
    ether,
    sized,
    tagged,
    tcp_partial,
    udp,
)
from tests.lib.lab import End, Lab, Wire
from tests.lib.packet import PacketSocket
from tests.lib.rtnl import Stats
from tests.lib.wait import wait_until
from vethd.model.spec import LinkSpec

LONG = 9000
SRC, DST = ("10.9.0.1", 1001), ("10.9.0.2", 1002)


def limit(mtu: int) -> int:
    """Return the longest frame that a receiver of that MTU takes."""
    return mtu + 14 + 4


def send_dropped(sender: PacketSocket, frame: bytes) -> None:
    """Send a frame that the device drops: a device without a queue says so."""
    with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)) as caught:
        sender.send(frame)
    assert caught.value.errno == errno.ENOBUFS


def assert_limit(lab: Lab, tx: End, rx: End, longest: int, tpid: int = 0) -> None:
    """Prove that a frame of longest bytes passes and one more byte does not, and that counters tell so."""

    def frame(length: int) -> bytes:
        return tagged(sized(length - 4), 5, tpid) if tpid else sized(length)

    with tx.packet() as sender, rx.packet() as receiver:
        before = tx.link.stats, rx.link.stats
        sender.send(frame(longest))
        send_dropped(sender, frame(longest + 1))
        sender.send(frame(longest - 1))
        assert receiver.recv().frame == frame(longest)
        assert receiver.recv().frame == frame(longest - 1)
    count = {"packets": 2, "bytes": 2 * longest - 1}
    tx.wait_stats(Stats(**{f"tx_{key}": value for key, value in count.items()}, tx_dropped=1), before[0])
    # the receiving stack has no such VLAN and drops what carries a tag, after counting it
    dropped = 2 if tpid else 0
    dropped += 0 if lab.backend.differs("peer-rx-dropped-on-oversize") else 1
    rx.wait_stats(Stats(**{f"rx_{key}": value for key, value in count.items()}, rx_dropped=dropped), before[1])


@pytest.mark.parametrize("mtu", [68, 1280, 1500, 1501, 8990])
@pytest.mark.parametrize("tpid", [0, ETH_P_8021Q, ETH_P_8021AD], ids=["plain", "8021q", "8021ad"])
def test_limit(lab: Lab, mtu: int, tpid: int) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(mtu=LONG), LinkSpec(mtu=mtu))
    wire.up()
    assert_limit(lab, wire.a, wire.b, limit(mtu), tpid)


def test_limit_from_far_to_near(lab: Lab) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(mtu=1300), LinkSpec(mtu=LONG))
    wire.up()
    assert_limit(lab, wire.b, wire.a, limit(1300))


def test_smaller_end_sends_to_larger(lab: Lab) -> None:
    """Only the receiver's MTU counts on the way; what the sender's stack lets out passes."""
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(mtu=1300), LinkSpec(mtu=LONG))
    wire.up()
    with wire.a.packet() as sender, wire.b.packet() as receiver:
        sender.send(sized(1314))
        assert receiver.recv().frame == sized(1314)


@pytest.mark.parametrize("mtu", [1000, 4000])
@pytest.mark.parametrize("which", ["near", "far"])
def test_live_change(lab: Lab, which: str, mtu: int) -> None:
    """A new MTU is the new limit, smaller or larger, whichever end has it."""
    wire = lab.pair(lab.netns("a"), lab.netns("b"), LinkSpec(mtu=LONG), LinkSpec(mtu=LONG))
    wire.up()
    tx, rx = (wire.b, wire.a) if which == "near" else (wire.a, wire.b)
    for now in (1500, mtu, LONG - 100):
        rx.set(f"mtu {now}")
        wait_limit(tx, rx, limit(now))
        assert_limit(lab, tx, rx, limit(now))


def wait_limit(tx: End, rx: End, longest: int) -> None:
    """Send frames until longest bytes pass and one more does not: a daemon hears of an MTU by an event."""
    before, received = rx.link.stats.rx_packets, 0
    with tx.packet() as sender, rx.packet() as receiver:

        def settled() -> bool:
            nonlocal received
            for length in (longest + 1, longest):
                try:
                    sender.send(sized(length))
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
            sender.send(sized(60))  # passes always, and comes last
            lengths: list[int] = []
            while lengths[-1:] != [60]:
                lengths.append(len(receiver.recv().frame))
            received += len(lengths)
            return lengths == [longest, 60]

        wait_until(settled, what=f"limit {longest}")
    rx.wait(lambda link: link.stats.rx_packets - before == received, what=f"{received} frames counted")


@pytest.mark.parametrize("size", [1600, 30000, 65000])
def test_tcp_super_frame_is_exempt(live: Wire, size: int) -> None:
    frame = ether(tcp_partial(SRC, DST, bytes(size)), proto=ETH_P_IP)
    assert_one_frame(live, frame, Vnet(NEEDS_CSUM, GSO_TCPV4, 0, 1448, 34, 16))


@pytest.mark.parametrize("size", [1600, 30000])
def test_udp_super_frame_is_exempt(live: Wire, size: int) -> None:
    frame = ether(udp(SRC, DST, bytes(size), partial=True), proto=ETH_P_IP)
    assert_one_frame(live, frame, Vnet(NEEDS_CSUM, GSO_UDP_L4, 0, 1448, 34, 6))


def assert_one_frame(wire: Wire, frame: bytes, vnet: Vnet) -> None:
    """Prove that a super-frame arrives as it was sent, as one, and counts as one with all its bytes."""
    with wire.a.packet(vnet=True) as sender, wire.b.packet(vnet=True) as receiver:
        before = wire.a.link.stats, wire.b.link.stats
        sender.send(frame, vnet)
        got = receiver.recv()
    # hdr_len is a hint: how much of the frame lies in one piece
    assert (got.frame, got.vnet._replace(hdr_len=0), got.csum_partial) == (frame, vnet, True)
    wire.a.wait_stats(Stats(tx_packets=1, tx_bytes=len(frame)), before[0])
    wire.b.wait_stats(Stats(rx_packets=1, rx_bytes=len(frame)), before[1])


@pytest.mark.parametrize("mtu", [67, 65536])
def test_live_mtu_out_of_range(live: Wire, mtu: int) -> None:
    with pytest.raises(AssertionError, match="mtu"):
        live.a.set(f"mtu {mtu}")
    assert live.a.link.mtu == 1500


@pytest.mark.parametrize("mtu", [65521, 65522, 65535])
def test_live_mtu_at_the_top(lab: Lab, live: Wire, mtu: int) -> None:
    if mtu > 65521 and lab.backend.differs("mtu-above-65521"):
        with pytest.raises(AssertionError, match="mtu"):
            live.a.set(f"mtu {mtu}")
    else:
        live.a.set(f"mtu {mtu}")
        assert live.a.link.mtu == mtu
