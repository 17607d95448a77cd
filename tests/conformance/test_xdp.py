"""XDP at an end, in the driver: what its program decides, what is counted, what it sees.

    a: va ====> [program] vb :b              a: x0 [program] -> va ====> vb :b

Kernel: veth_xdp_rcv(), veth_xdp_set(); tun_build_skb(), tun_xdp_xmit().
"""

from __future__ import annotations

import errno

import pytest

from tests.lib import bpf
from tests.lib.bpf import insn
from tests.lib.frames import sized
from tests.lib.hooks import XDP_DROP, XDP_GENERIC, XDP_NATIVE, XDP_PASS, XDP_TX, xdp
from tests.lib.lab import End, Lab, Wire
from tests.lib.rtnl import Link, Stats
from tests.lib.sockets import udp_pair

LENGTH = 100
SOL_UDP, UDP_SEGMENT = 17, 103
SEGMENTS, SEGMENT = 10, 1200
BPF_FUNC_REDIRECT = 23


def wait_received(end: End, packets: int = 1, dropped: int = 0, since: Stats | None = None) -> None:
    """Wait until so many frames have come. Not compared are their bytes: veth's driver leaves the header out."""

    def counted(link: Link) -> bool:
        stats = link.stats - (since or Stats())
        return (stats.rx_packets, stats.rx_dropped) == (packets, dropped)

    end.wait(counted, what=f"{packets} packets, {dropped} dropped")


def redirecting(ifindex: int) -> bytes:
    """Return a program that sends every frame out of another device."""
    arguments = insn(bpf.MOV_K, 1, imm=ifindex) + insn(bpf.MOV_K, 2, imm=0)
    return arguments + insn(bpf.CALL, imm=BPF_FUNC_REDIRECT) + insn(bpf.EXIT)


@pytest.mark.parametrize("mode", [XDP_NATIVE, XDP_GENERIC], ids=["native", "generic"])
def test_pass(live: Wire, mode: int) -> None:
    with xdp(live.b, bpf.returning(XDP_PASS), mode), live.a.packet() as left, live.b.packet() as right:
        left.send(sized(LENGTH))
        assert right.recv().frame == sized(LENGTH)
    wait_received(live.b)


@pytest.mark.parametrize("mode", [XDP_NATIVE, XDP_GENERIC], ids=["native", "generic"])
def test_drop(lab: Lab, live: Wire, mode: int) -> None:
    """A TAP counts what the driver's program drops as dropped, veth as received."""
    with xdp(live.b, bpf.returning(XDP_DROP), mode), live.a.packet() as left, live.b.packet() as right:
        left.send(sized(LENGTH))
        dropped = mode == XDP_NATIVE and lab.backend.differs("xdp-drop-is-dropped")
        wait_received(live.b, packets=not dropped, dropped=dropped)
        assert right.drained() == []


@pytest.mark.parametrize("mode", [XDP_NATIVE, XDP_GENERIC], ids=["native", "generic"])
def test_send_back(lab: Lab, live: Wire, mode: int) -> None:
    """XDP_TX: veth's driver does it only if va has a program, too, or gro on."""
    sent_back = mode == XDP_GENERIC or lab.backend.differs("xdp-needs-nothing-of-the-peer")
    with xdp(live.b, bpf.returning(XDP_TX), mode), live.a.packet() as left:
        left.send(sized(LENGTH))
        wait_received(live.b)
        if sent_back:
            assert left.recv().frame == sized(LENGTH)
        assert left.drained() == []


@pytest.mark.parametrize("ready", [False, True], ids=["bare", "ready"])
def test_redirect_into_a_pair(lab: Lab, live: Wire, ready: bool) -> None:
    """XDP_REDIRECT: veth takes it only if the other end has a program, too, or gro on."""
    x, a = lab.netns("x"), live.a.netns
    a.ip(f"link add x0 type veth peer name x1 netns {x.name}", "link set x0 up")
    x.ip("link set x1 up")
    if ready:
        live.b.netns.command("ethtool", "-K", live.b.name, "gro", "on")
    with xdp(End(a, "x0"), redirecting(live.a.link.ifindex)), End(x, "x1").packet() as left, live.b.packet() as right:
        left.send(sized(LENGTH))
        arrives = ready or lab.backend.differs("xdp-needs-nothing-of-the-peer")
        wait_received(End(a, "x0"), dropped=not arrives)
        if arrives:
            assert right.recv().frame == sized(LENGTH)
            wait_received(live.b)
        assert right.drained() == []


def test_super_frames(lab: Lab, live: Wire) -> None:
    """A program in veth's driver has the sender cut them up; a TAP gives the program them whole."""
    near, far = live.addresses()
    with udp_pair(live.a.netns, near, live.b.netns, far) as (left, right), xdp(live.b, bpf.returning(XDP_PASS)):
        left.send(b"hello")
        assert right.recv(10) == b"hello"
        before = live.b.link.stats
        left.setsockopt(SOL_UDP, UDP_SEGMENT, SEGMENT)
        left.send(bytes(SEGMENTS * SEGMENT))
        assert {len(right.recv(2 * SEGMENT)) for _ in range(SEGMENTS)} == {SEGMENT}
        whole = lab.backend.differs("xdp-sees-super-frames")
        wait_received(live.b, 1 if whole else SEGMENTS, since=before)


def test_mtu(lab: Lab, live: Wire) -> None:
    """A program in veth's driver and frames longer than a page exclude each other; a TAP takes both."""
    live.a.set("mtu 9000")
    program = xdp(live.b, bpf.returning(XDP_PASS))
    if lab.backend.differs("xdp-sees-super-frames"):
        with program:
            pass
        return
    with pytest.raises(OSError, match=f"Errno {errno.ERANGE}"), program:
        pass
