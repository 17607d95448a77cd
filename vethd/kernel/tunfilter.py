"""Refuses oversize frames in the kernel, where the sender's own tx_dropped counts them, as on veth.

Theory of operation. TUNSETFILTEREBPF runs a socket filter on every frame that the stack sends to a TAP, before the
frame is queued. If the filter returns 0, the frame is dropped and the device's tx_dropped increases. The program reads
one array element, which userspace has mapped: setting the limit is a plain store (no system call, no reload), and
reading a count is a plain load.

    element 0:  u64 limit | u64 refused as oversize | u64 passed
    limit      longest frame in bytes, Ethernet header included; GSO frames (gso_size != 0) always pass
    passed     frames that went on to the queue, where a full queue can still drop them

If BPF is forbidden (EPERM inside an unprivileged user namespace), there is no filter, and only the engine checks: the
frame is dropped in either case, but without a filter the sender counts it as sent. BPF_F_MMAPABLE: kernel 5.5.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import weakref
from typing import Any, NamedTuple

from vethd.kernel import bpf
from vethd.kernel.bpf import insn, libc
from vethd.kernel.uapi import (
    BPF_F_MMAPABLE,
    BPF_MAP_CREATE,
    BPF_MAP_TYPE_ARRAY,
    BPF_PSEUDO_MAP_VALUE,
    TUNSETFILTEREBPF,
)
from vethd.model.errors import VethError

_LIMIT, _OVERSIZE, _PASSED = 0, 8, 16
_VALUE_SIZE = 24

# Module constants keep the array types alive; otherwise ctypes would create them again for every filter.
_Value = ctypes.c_uint64 * 3

# struct __sk_buff
_SKB_LEN = 0
_SKB_GSO_SIZE = 176


class FilterCounts(NamedTuple):
    """Frames since the filter was attached."""

    oversize: int
    passed: int


class TunFilter:
    """The filter of one sending TAP. Making it may block (RTNL); the methods only access memory."""

    def __init__(self, tap_fd: int, limit: int) -> None:
        """Attach a new filter to the device of tap_fd, which holds its program from then on.

        Raises VethError: EPERM or ENOSYS if this user or this kernel has no BPF.
        """
        map_fd = bpf.call(BPF_MAP_CREATE, struct.pack("=IIIII", BPF_MAP_TYPE_ARRAY, 4, _VALUE_SIZE, 1, BPF_F_MMAPABLE))
        try:
            self._value = _map(map_fd)
            self.set_limit(limit)
            prog_fd = bpf.load(_program(map_fd))
        finally:
            os.close(map_fd)
        try:
            bpf.attach(tap_fd, TUNSETFILTEREBPF, "TUNSETFILTEREBPF", prog_fd)
        finally:
            os.close(prog_fd)

    def set_limit(self, limit: int) -> None:
        """Let frames of at most limit bytes pass from now on."""
        self._value[_LIMIT // 8] = limit

    def counts(self) -> FilterCounts:
        """Read the two counters."""
        return FilterCounts(self._value[_OVERSIZE // 8], self._value[_PASSED // 8])


def _map(map_fd: int) -> Any:
    """Map the element as an array of three u64. The last reference to the array unmaps it.

    mmap.mmap() would keep a duplicate of the fd: two for each pair.
    """
    libc.mmap.restype = ctypes.c_void_p
    protection, shared = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED
    size, offset = ctypes.c_size_t(mmap.PAGESIZE), ctypes.c_long(0)
    address = libc.mmap(None, size, protection, shared, map_fd, offset)
    if address == ctypes.c_void_p(-1).value:
        raise VethError(ctypes.get_errno(), "mmap")
    value = _Value.from_address(address)
    weakref.finalize(value, libc.munmap, ctypes.c_void_p(address), size)
    return value


def _program(map_fd: int) -> bytes:
    """Assemble the filter. Registers: r1 the skb, r2 its length, r3 gso_size, r4 the element, r5 scratch."""
    ldx_w, ldx_dw, ld_imm64, add_atomic = 0x61, 0x79, 0x18, 0xDB
    mov64, mov64_imm, jne, jgt, exit_ = 0xBF, 0xB7, 0x55, 0x2D, 0x95
    return b"".join(
        (
            insn(ldx_w, dst=2, src=1, off=_SKB_LEN),
            insn(ldx_w, dst=3, src=1, off=_SKB_GSO_SIZE),
            insn(ld_imm64, dst=4, src=BPF_PSEUDO_MAP_VALUE, imm=map_fd),
            insn(0),
            insn(jne, dst=3, off=2, imm=0),  # gso_size != 0: jump to pass
            insn(ldx_dw, dst=5, src=4, off=_LIMIT),
            insn(jgt, dst=2, src=5, off=4),  # len > limit: jump to drop
            insn(mov64, dst=0, src=2),  # pass: keep the whole frame
            insn(mov64_imm, dst=5, imm=1),
            insn(add_atomic, dst=4, src=5, off=_PASSED),
            insn(exit_),
            insn(mov64_imm, dst=0, imm=0),  # drop
            insn(mov64_imm, dst=5, imm=1),
            insn(add_atomic, dst=4, src=5, off=_OVERSIZE),
            insn(exit_),
        )
    )
