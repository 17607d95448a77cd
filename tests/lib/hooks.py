"""Places at a device where a program of eBPF runs: tc's ingress and egress, and XDP. Nothing here needs tc(8)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lib import bpf
from tests.lib.lab import End
from tests.lib.packet import ETH_P_ALL
from tests.lib.rtnl import NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK, Rtnl, ifinfomsg, nest, text, u32

RTM_NEWQDISC, RTM_NEWTFILTER = 36, 44
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS = 6, 7, 8
TCA_BPF_FLAG_ACT_DIRECT = 1
CLSACT = 0xFFFF0000, 0xFFFFFFF1  # handle, parent
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3

TC_ACT_UNSPEC, TC_ACT_SHOT = -1, 2  # go on to the next filter; drop
XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3
XDP_GENERIC, XDP_NATIVE = 1 << 1, 1 << 2
IFLA_XDP, IFLA_XDP_FD, IFLA_XDP_FLAGS = 43, 1, 3
NO_PROGRAM = 0xFFFFFFFF

_TCMSG = struct.Struct("=BxHiIII")  # family, pad, ifindex, handle, parent, info


def tc(end: End, program: bytes, parent: int = INGRESS, priority: int = 1) -> None:
    """Run program, of BPF_PROG_TYPE_SCHED_CLS, on what the device receives (or at EGRESS sends); it says what happens.

    Programs run by priority, from 1 on, until one returns anything but TC_ACT_UNSPEC. Raises OSError.
    """
    fd = bpf.load(program, bpf.BPF_PROG_TYPE_SCHED_CLS)
    try:
        with Rtnl(end.netns) as sock:
            index = end.link.ifindex
            try:
                body = _TCMSG.pack(0, 0, index, *CLSACT, 0) + nest([(TCA_KIND, text("clsact"))])
                sock.request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)
            except OSError as error:  # another program of the test's has made it
                if error.errno != errno.EEXIST:
                    raise
            flags = u32(TCA_BPF_FLAG_ACT_DIRECT)
            options = nest([(TCA_BPF_FD, u32(fd)), (TCA_BPF_NAME, text("test")), (TCA_BPF_FLAGS, flags)])
            info = priority << 16 | socket.htons(ETH_P_ALL)
            body = _TCMSG.pack(0, 0, index, 1, parent, info)
            attrs = nest([(TCA_KIND, text("bpf")), (TCA_OPTIONS, options)])
            sock.request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body + attrs)
    finally:
        os.close(fd)


@contextmanager
def xdp(end: End, program: bytes, mode: int = XDP_NATIVE) -> Iterator[None]:
    """Run program on what the device receives, before there is an sk_buff. Raises OSError."""
    fd = bpf.load(program, bpf.BPF_PROG_TYPE_XDP)
    try:
        _set_xdp(end, fd, mode)
    finally:
        os.close(fd)
    try:
        yield
    finally:
        _set_xdp(end, NO_PROGRAM, mode)


def _set_xdp(end: End, fd: int, mode: int) -> None:
    attrs = nest([(IFLA_XDP, nest([(IFLA_XDP_FD, u32(fd)), (IFLA_XDP_FLAGS, u32(mode))]))])
    with Rtnl(end.netns) as sock:
        sock.request(RTM_NEWLINK, 0, ifinfomsg(end.link.ifindex) + attrs)
