"""Steers the frames that the stack sends to a TAP with two queues: TCP to queue 0, everything else to queue 1.

Theory of operation. TUNSETSTEERINGEBPF gives a multi-queue TAP a program that chooses the queue of each frame (modulo
the number of queues), in place of the kernel's flow table. The device holds the program for as long as it exists, with
or without attached fds. The program sees the frame from its Ethernet header on; an accelerated VLAN tag is beside the
frame, not in it.

All frames of a flow must get the same queue, or they overtake each other. The program therefore decides by fields that
every frame of a flow has, whole or fragmented, and never by ports:

    up to two VLAN tags in the frame (0x8100, 0x88a8)   are skipped
    IPv4                                                the protocol, which every fragment has
    IPv6                                                the next header; a hop-by-hop header is skipped, and behind
                                                        it or behind the IPv6 header the next header of a fragment
                                                        header counts, which every fragment has
    everything else                                     is not TCP: ARP, PPPoE, MPLS, a third tag

Other extension headers of IPv6 are not skipped: behind a fragment header, only the first fragment has them. A packet
with such a header goes to queue 1, whole or fragmented. A tunnel's packets have the tunnel's own protocol (GRE, IPIP,
UDP, ESP), so a tunnel is one flow in queue 1. A frame that ends before the field that is to be read goes to queue 0: a
load beyond the end of a frame ends the program with the result 0.

Kernel: drivers/net/tun.c tun_ebpf_select_queue(), since 4.16.
"""

from __future__ import annotations

import os
from socket import IPPROTO_FRAGMENT, IPPROTO_HOPOPTS, IPPROTO_TCP
from typing import Self

from vethd.kernel import bpf
from vethd.kernel.bpf import insn
from vethd.kernel.uapi import TUNSETSTEERINGEBPF
from vethd.model.spec import LATENCY_QUEUE

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_ETH_P_8021Q, _ETH_P_8021AD = 0x8100, 0x88A8
_TAGS = 2


class Steering:
    """The program, loaded once for both devices of a pair. Use as a context manager; the devices keep the program."""

    def __init__(self) -> None:
        """Load the program. Raises VethError; see bpf.unavailable()."""
        self._fd = bpf.load(_program())

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the program's fd."""
        os.close(self._fd)

    def attach(self, tap_fd: int) -> None:
        """Have the program choose the queues of the device of tap_fd. Blocks (RTNL). Raises VethError."""
        bpf.attach(tap_fd, TUNSETSTEERINGEBPF, "TUNSETSTEERINGEBPF", self._fd)


def _program() -> bytes:
    """Assemble the program.

    Registers: r0 what was loaded last, r6 the skb (as loads of packet data require), r7 the offset of the IP header or
    of a header behind it, r8 a next header.
    """
    mov, mov_imm, add, add_imm, lsh_imm = 0xBF, 0xB7, 0x0F, 0x07, 0x67
    jeq, jne, jump, exit_ = 0x15, 0x55, 0x05, 0x95
    load_abs_16, load_ind_16, load_ind_8 = 0x28, 0x48, 0x50  # r0 = data[imm], data[src + imm]; or exit with 0
    skip_tag = (
        insn(jeq, dst=0, off=1, imm=_ETH_P_8021Q),
        insn(jne, dst=0, off=2, imm=_ETH_P_8021AD),  # no tag: jump over the rest
        insn(load_ind_16, src=7, imm=2),
        insn(add_imm, dst=7, imm=4),
    )
    next_header = (  # r0 = what follows the IPv6 header
        insn(load_ind_8, src=7, imm=6),
        insn(add_imm, dst=7, imm=40),
        insn(jne, dst=0, off=7, imm=IPPROTO_HOPOPTS),
        insn(load_ind_8, src=7, imm=0),  # hop-by-hop: its next header, and its length in 8 bytes less one
        insn(mov, dst=8, src=0),
        insn(load_ind_8, src=7, imm=1),
        insn(add_imm, dst=0, imm=1),
        insn(lsh_imm, dst=0, imm=3),
        insn(add, dst=7, src=0),
        insn(mov, dst=0, src=8),
        insn(jne, dst=0, off=1, imm=IPPROTO_FRAGMENT),
        insn(load_ind_8, src=7, imm=0),
    )
    decide = (
        insn(jeq, dst=0, off=2, imm=IPPROTO_TCP),
        insn(mov_imm, dst=0, imm=LATENCY_QUEUE),
        insn(exit_),
        insn(mov_imm, dst=0, imm=0),
        insn(exit_),
    )
    return b"".join(
        (
            insn(mov, dst=6, src=1),
            insn(load_abs_16, imm=12),
            insn(mov_imm, dst=7, imm=14),
            *(skip_tag * _TAGS),
            insn(jne, dst=0, off=2, imm=_ETH_P_IP),
            insn(load_ind_8, src=7, imm=9),
            insn(jump, off=1 + len(next_header)),  # to decide
            insn(jne, dst=0, off=len(next_header) + 1, imm=_ETH_P_IPV6),  # neither: to decide's second instruction
            *next_header,
            *decide,
        )
    )
