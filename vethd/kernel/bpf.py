"""Loads eBPF programs that run on the frames of a TAP, by bpf(2): assembled here, without a library or a compiler.

A kernel without bpf(2), or a user who may not call it, returns ENOSYS or EPERM (unavailable()).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct

from vethd.kernel.abi import MACHINE, bpf_number, bpf_registers
from vethd.kernel.uapi import BPF_PROG_LOAD, BPF_PROG_TYPE_SOCKET_FILTER
from vethd.model.errors import VethError

libc = ctypes.CDLL(None, use_errno=True)

# A module constant keeps the array type alive; otherwise ctypes would create it again for every call.
_Attr = ctypes.c_char * 128
_LICENCE = ctypes.create_string_buffer(b"GPL")


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """Return one instruction."""
    return struct.pack("=BBhi", code, bpf_registers(dst, src), off, imm)


def load(program: bytes) -> int:
    """Load a program of type SOCKET_FILTER; return its fd, the caller's. Raises VethError."""
    text = ctypes.c_char_p(program)  # the program has zero bytes; its length is given below
    attr = struct.pack(
        "=IIQQ",
        BPF_PROG_TYPE_SOCKET_FILTER,
        len(program) // 8,
        ctypes.cast(text, ctypes.c_void_p).value or 0,
        ctypes.addressof(_LICENCE),
    )
    return call(BPF_PROG_LOAD, attr)


def attach(tap_fd: int, request: int, op: str, prog_fd: int) -> None:
    """Give the device of tap_fd a program by the ioctl request, called op in errors. Raises VethError."""
    try:
        fcntl.ioctl(tap_fd, request, struct.pack("i", prog_fd))
    except OSError as error:
        raise VethError(error.errno or errno.EIO, op) from error


def unavailable(error: VethError) -> bool:
    """Return whether an error of bpf(2) says that this kernel has no BPF, or that this user may not use it."""
    return error.op == "bpf" and error.errno in (errno.EPERM, errno.ENOSYS)


def call(command: int, attr: bytes) -> int:
    """Call bpf(2) and return its result. Raises VethError."""
    number = bpf_number()
    if number is None:
        raise VethError(errno.ENOSYS, "bpf", reason=f"the number of bpf(2) is unknown on {MACHINE}")
    # bpf_check_uarg_tail_zero(): a kernel with a shorter bpf_attr accepts this if the rest is zero
    buffer = _Attr.from_buffer_copy(attr.ljust(ctypes.sizeof(_Attr), b"\0"))
    result = int(libc.syscall(number, command, buffer, ctypes.sizeof(_Attr)))
    if result < 0:
        raise VethError(ctypes.get_errno(), "bpf")
    return result
