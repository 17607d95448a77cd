"""Refuses oversize frames in the kernel, where the sender's own tx_dropped counts them, as on veth.

Theory of operation. TUNSETFILTEREBPF runs a socket filter on every frame that the stack sends to a TAP, before the
frame is queued. If the filter returns 0, the frame is dropped and the device's tx_dropped increases. The program reads
one number and counts in two others, each a u64 in a BPF array:

    limit      longest frame in bytes, Ethernet header included; super-frames always pass
    oversize   frames that were refused
    passed     frames that went on to the queue, where a full queue can still drop them

Userspace has the array mapped: setting the limit is a plain store (no system call, no reload), and reading a count is a
plain load. Before Linux 5.5 an array cannot be mapped (BPF_F_MMAPABLE). Then there are two arrays, read and written by
bpf(2): it writes a whole element, and must not write the counts together with the limit.

A super-frame has a gso_size, which a program can read since Linux 5.7. Before, it reads gso_segs (5.1), which then
exceeds 1. TCP sets it to 1 for its other frames. It is 0 while the header of a super-frame from a TAP or a packet
socket is unchecked, but the stack checks the header, and sets it, before the frame gets to a device.

If BPF is forbidden (EPERM inside an unprivileged user namespace), there is no filter, and only the engine checks: the
frame is dropped in either case, but without a filter the sender counts it as sent.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import weakref
from contextlib import ExitStack
from typing import Any, NamedTuple

from vethd.kernel import bpf
from vethd.kernel.bpf import insn, libc
from vethd.kernel.uapi import (
    BPF_F_MMAPABLE,
    BPF_MAP_CREATE,
    BPF_MAP_LOOKUP_ELEM,
    BPF_MAP_TYPE_ARRAY,
    BPF_MAP_UPDATE_ELEM,
    BPF_PSEUDO_MAP_VALUE,
    TUNSETFILTEREBPF,
)
from vethd.model.errors import VethError

_U64 = 8
_OVERSIZE, _PASSED = 0, _U64  # offsets from the counts
_ELEM = struct.Struct("=IxxxxQQQ")  # map_fd, addresses of key and value, flags

# Module constants keep the array types alive; otherwise ctypes would create them again for every filter.
_Limit, _Counts, _Value = ctypes.c_uint64 * 1, ctypes.c_uint64 * 2, ctypes.c_uint64 * 3
_KEY = ctypes.c_uint32(0)

# struct __sk_buff
_SKB_LEN = 0
_SKB_GSO_SEGS = 164
_SKB_GSO_SIZE = 176
_SUPER_FRAME = ((_SKB_GSO_SIZE, 0), (_SKB_GSO_SEGS, 1))
"""Fields, best first, each with the number that it exceeds in a super-frame."""


class FilterCounts(NamedTuple):
    """Frames since the filter was attached."""

    oversize: int
    passed: int


class TunFilter:
    """The filter of one sending TAP. Making it may block (RTNL); the methods do not."""

    def __init__(self, tap_fd: int, limit: int) -> None:
        """Attach a new filter to the device of tap_fd, which holds its program from then on.

        Raises VethError: EPERM or ENOSYS if this user or this kernel has no BPF.
        """
        with ExitStack() as stack:
            self._numbers = _numbers(stack)
            self.set_limit(limit)
            prog_fd = _load(self._numbers)
            stack.callback(os.close, prog_fd)
            bpf.attach(tap_fd, TUNSETFILTEREBPF, "TUNSETFILTEREBPF", prog_fd)

    def set_limit(self, limit: int) -> None:
        """Let frames of at most limit bytes pass from now on."""
        self._numbers.set_limit(limit)

    def counts(self) -> FilterCounts:
        """Read the two counters."""
        return self._numbers.counts()


class _Mapped:
    """The three numbers in one array, mapped. limit_at and counts_at are each a map's fd and an offset."""

    def __init__(self, map_fd: int) -> None:
        """Map the array of map_fd, which stays the caller's."""
        self.limit_at, self.counts_at = (map_fd, 0), (map_fd, _U64)
        self._value = _map(map_fd)

    def set_limit(self, limit: int) -> None:
        self._value[0] = limit

    def counts(self) -> FilterCounts:
        return FilterCounts(self._value[1], self._value[2])


class _Arrays:
    """The numbers in two arrays, whose fds stay open as long as this object; otherwise as _Mapped."""

    def __init__(self) -> None:
        """Make the arrays. Raises VethError."""
        self.limit_at, self.counts_at = (self._array(_Limit), 0), (self._array(_Counts), 0)

    def _array(self, kind: type[ctypes.Array[ctypes.c_uint64]]) -> int:
        fd = _array(ctypes.sizeof(kind))
        weakref.finalize(self, os.close, fd)
        return fd

    def set_limit(self, limit: int) -> None:
        _element(BPF_MAP_UPDATE_ELEM, self.limit_at[0], _Limit(limit))

    def counts(self) -> FilterCounts:
        counts = _Counts()
        _element(BPF_MAP_LOOKUP_ELEM, self.counts_at[0], counts)
        return FilterCounts(*counts)


def _numbers(stack: ExitStack) -> _Mapped | _Arrays:
    """Make room for the three numbers; stack must stay open until the program is loaded. Raises VethError."""
    try:
        map_fd = _array(ctypes.sizeof(_Value), BPF_F_MMAPABLE)
    except VethError as error:
        if error.errno != errno.EINVAL:
            raise
        return _Arrays()
    stack.callback(os.close, map_fd)
    return _Mapped(map_fd)


def _array(value_size: int, flags: int = 0) -> int:
    """Make an array with one element; return its fd, the caller's. Raises VethError."""
    return bpf.call(BPF_MAP_CREATE, struct.pack("=IIIII", BPF_MAP_TYPE_ARRAY, 4, value_size, 1, flags))


def _element(command: int, map_fd: int, value: ctypes.Array[ctypes.c_uint64]) -> None:
    """Read or write an array's element by bpf(2). Raises VethError."""
    bpf.call(command, _ELEM.pack(map_fd, ctypes.addressof(_KEY), ctypes.addressof(value), 0))


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


def _load(numbers: _Mapped | _Arrays) -> int:
    """Load the program with the best field that it may read here; return its fd, the caller's. Raises VethError."""
    *better, last = _SUPER_FRAME
    for field, exceeded in better:
        try:
            return bpf.load(_program(numbers, field, exceeded))
        except VethError as error:
            if error.errno != errno.EACCES:  # the verifier's answer to a read of a field that it does not know
                raise
    return bpf.load(_program(numbers, *last))


def _program(numbers: _Mapped | _Arrays, field: int, exceeded: int) -> bytes:
    """Assemble the filter; a super-frame's field exceeds that number.

    Registers: r1 the skb, r2 its length, r3 the field, r4 the limit's address, r5 scratch, r6 the counts' address.
    """
    ldx_w, ldx_dw, ld_imm64, add_atomic = 0x61, 0x79, 0x18, 0xDB
    mov64, mov64_imm, jgt_imm, jgt, exit_ = 0xBF, 0xB7, 0x25, 0x2D, 0x95
    return b"".join(
        (
            insn(ldx_w, dst=2, src=1, off=_SKB_LEN),
            insn(ldx_w, dst=3, src=1, off=field),
            insn(ld_imm64, dst=4, src=BPF_PSEUDO_MAP_VALUE, imm=numbers.limit_at[0]),
            insn(0, imm=numbers.limit_at[1]),
            insn(ld_imm64, dst=6, src=BPF_PSEUDO_MAP_VALUE, imm=numbers.counts_at[0]),
            insn(0, imm=numbers.counts_at[1]),
            insn(jgt_imm, dst=3, off=2, imm=exceeded),  # a super-frame: jump to pass
            insn(ldx_dw, dst=5, src=4),
            insn(jgt, dst=2, src=5, off=4),  # len > limit: jump to drop
            insn(mov64, dst=0, src=2),  # pass: keep the whole frame
            insn(mov64_imm, dst=5, imm=1),
            insn(add_atomic, dst=6, src=5, off=_PASSED),
            insn(exit_),
            insn(mov64_imm, dst=0, imm=0),  # drop
            insn(mov64_imm, dst=5, imm=1),
            insn(add_atomic, dst=6, src=5, off=_OVERSIZE),
            insn(exit_),
        )
    )
