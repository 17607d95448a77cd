"""Who counts the segments of a super-frame that the sender's stack made (GSO): its bytes everybody, its number not all.

    a: va ----one frame, 10 segments----> vb :s: so ----> ci :c     s is a router

Kernel: gso_segs of skb_shared_info. virtio_net_hdr has no field for it, so a TAP begins with 0 and marks the frame
SKB_GSO_DODGY; the first device that sends the frame on counts anew (skb_gso_segment() and what it calls).
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.lib.held import tcp_pair
from tests.lib.hooks import EGRESS
from tests.lib.lab import End, Lab, Wire
from tests.lib.netns import Netns
from tests.lib.skb import Recorder
from tests.lib.sockets import udp_pair
from tests.lib.wait import wait_until

SOL_UDP, UDP_SEGMENT = 17, 103
SEGMENTS, SEGMENT = 10, 1200
HEADERS = 14 + 20 + 8
WHOLE = HEADERS + SEGMENTS * SEGMENT
TCP_INFO, SEGS_OUT, SEGS_IN = 11, 136, 140  # offsets in struct tcp_info


class Road(NamedTuple):
    """The devices on the way, and the two sockets at its ends, across which one datagram has gone."""

    vb: End
    so: End
    ci: End
    left: socket.socket
    right: socket.socket


@pytest.fixture
def road(lab: Lab, live: Wire) -> Iterator[Road]:
    s, c = live.b.netns, lab.netns("c")
    s.ip(f"link add so type veth peer name ci netns {c.name}", "link set so up")
    c.ip("link set ci up", "address add 10.8.0.3/24 dev ci", "route add default via 10.8.0.2")
    so, ci = End(s, "so"), End(c, "ci")
    live.addresses()
    so.address("10.8.0.2/24")
    s.sysctl("net/ipv4/ip_forward", "1")
    live.a.netns.ip("route add default via 10.9.0.2")
    with udp_pair(live.a.netns, "10.9.0.1", c, "10.8.0.3") as (left, right):
        left.send(b"hello")
        assert right.recv(10) == b"hello"
        yield Road(live.b, so, ci, left, right)


def send_segments(road: Road) -> None:
    """Send ten datagrams by one call, and receive them."""
    road.left.setsockopt(SOL_UDP, UDP_SEGMENT, SEGMENT)
    road.left.send(bytes(SEGMENTS * SEGMENT))
    for _ in range(SEGMENTS):
        assert len(road.right.recv(1 << 16)) == SEGMENT


def test_number_of_segments(lab: Lab, road: Road) -> None:
    """Programs of tc see it by gso_segs; what makes of it is known behind the first device that sends the frame on."""
    with Recorder(road.vb) as first, Recorder(road.so, EGRESS) as second, Recorder(road.ci) as third:
        send_segments(road)
        seen = [recorder.wait(1) for recorder in (first, second, third)]
    unknown = lab.backend.differs("gso-segs-unknown")
    assert [skb["gso_segs"] for skb in seen] == ([0, 0, SEGMENTS] if unknown else [SEGMENTS] * 3)
    assert {(skb["gso_size"], skb["len"]) for skb in seen} == {(SEGMENT, WHOLE)}


@pytest.mark.parametrize("mirrored", [False, True])
def test_tc(lab: Lab, road: Road, mirrored: bool) -> None:
    """A shaper counts the bytes of all segments with their headers, and packets where their number is known.

    It is known to whoever comes behind a copy that was sent: mirred's shares the number with the frame itself.
    """
    s = road.so.netns
    if mirrored:
        s.command("tc", "qdisc", "add", "dev", "vb", "clsact")
        s.ip("link add ifb0 type ifb", "link set ifb0 up")
        every = ("dev", "vb", "ingress", "protocol", "ip", "u32", "match", "u32", "0", "0")
        s.command("tc", "filter", "add", *every, "action", "mirred", "egress", "mirror", "dev", "ifb0")
    s.command("tc", "qdisc", "replace", "dev", "so", "root", "handle", "1:", "htb", "default", "1")
    s.command("tc", "class", "add", "dev", "so", "parent", "1:", "classid", "1:1", "htb", "rate", "1gbit")
    send_segments(road)
    (shaper,) = told(s, "qdisc", "show", "dev", "so")
    unknown = lab.backend.differs("gso-segs-unknown")
    behind = 0 if unknown and not mirrored else SEGMENTS
    assert (shaper["bytes"], shaper["packets"]) == (SEGMENTS * (HEADERS + SEGMENT), behind)
    if mirrored:
        action = told(s, "actions", "list", "action", "mirred")[1]["actions"][0]["stats"]
        assert (action["bytes"], action["packets"]) == (WHOLE - 14, 0 if unknown else SEGMENTS)


def test_tc_and_what_was_coalesced(lab: Lab, road: Road) -> None:
    """Datagrams that vethd puts together are in no packet that tc counts, either; their bytes are."""
    s = road.so.netns
    s.command("tc", "qdisc", "replace", "dev", "so", "root", "handle", "1:", "htb", "default", "1")
    s.command("tc", "class", "add", "dev", "so", "parent", "1:", "classid", "1:1", "htb", "rate", "1gbit")
    with lab.backend.held():
        for _ in range(SEGMENTS):
            road.left.send(bytes(SEGMENT))
    for _ in range(SEGMENTS):
        assert len(road.right.recv(1 << 16)) == SEGMENT
    (shaper,) = told(s, "qdisc", "show", "dev", "so")
    assert shaper["bytes"] == SEGMENTS * (HEADERS + SEGMENT)
    fewer = lab.backend.differs("gro-super-frames")
    assert shaper["packets"] < SEGMENTS if fewer else shaper["packets"] == SEGMENTS


def told(netns: Netns, *what: str) -> Any:
    """Return what tc tells, with statistics."""
    return json.loads(netns.command("tc", "-s", "-j", *what))


def test_ip_statistics(lab: Lab, road: Road) -> None:
    """IpExtInNoECTPkts counts segments, a super-frame of unknown number as one."""
    before = ext(road.vb.netns, "InNoECTPkts")
    send_segments(road)
    assert ext(road.vb.netns, "InNoECTPkts") - before == (1 if lab.backend.differs("gso-segs-unknown") else SEGMENTS)


def ext(netns: Netns, counter: str) -> int:
    """Read a counter of IpExt."""
    names, values = (line.split() for line in netns.read("netstat").splitlines() if line.startswith("IpExt:"))
    return int(dict(zip(names, values, strict=True))[counter])


def test_tcp_information(lab: Lab, live: Wire) -> None:
    """tcpi_segs_in counts a super-frame of unknown number as one segment."""
    _, far = live.addresses()
    with tcp_pair(live.a.netns, live.b.netns, far) as (left, right):
        before = segments(right, SEGS_IN)
        left.send(bytes(WHOLE))
        got = 0
        while got < WHOLE:
            got += len(right.recv(WHOLE))
        came = segments(right, SEGS_IN) - before
        wait_until(lambda: segments(left, SEGS_OUT) > WHOLE // 1460, what="the segments that were sent")
    assert came < WHOLE // 1460 if lab.backend.differs("gso-segs-unknown") else came >= WHOLE // 1460


def segments(sock: socket.socket, offset: int) -> int:
    """Read a number of struct tcp_info."""
    return int(struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 256), offset)[0])
