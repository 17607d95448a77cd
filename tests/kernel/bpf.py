"""The oversize filter in raw eBPF, by bpf(2) and ctypes: no library, no compiler."""

from __future__ import annotations

import ctypes
import platform
import struct

from tests.kernel.tap import checked, libc

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}[platform.machine()]
BPF_PROG_LOAD = 5
BPF_PROG_TYPE_SOCKET_FILTER = 1
LICENSE = b"GPL\0"

# struct __sk_buff in include/uapi/linux/bpf.h
SKB_LEN = 0
SKB_GSO_SIZE = 176

LDX_W, JNE_K, JLE_K, MOV_K, EXIT = 0x61, 0x55, 0xB5, 0xB7, 0x95
KEEP = -1  # as unsigned more than any length: the frame is not trimmed


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """Return one instruction."""
    return struct.pack("=BBhi", code, src << 4 | dst, off, imm)


def returning(value: int) -> bytes:
    """Return a program that answers every frame with value."""
    return insn(MOV_K, 0, imm=value) + insn(EXIT)


def oversize_filter(limit: int) -> bytes:
    """Return a program that refuses frames without GSO of more than limit bytes, Ethernet header counted."""
    return b"".join(
        (
            insn(LDX_W, 2, 1, SKB_GSO_SIZE),  # r2 = ctx->gso_size
            insn(JNE_K, 2, off=4, imm=0),  # if r2 != 0 goto keep
            insn(LDX_W, 2, 1, SKB_LEN),  # r2 = ctx->len
            insn(JLE_K, 2, off=2, imm=limit),  # if r2 <= limit goto keep
            returning(0),
            returning(KEEP),  # keep:
        )
    )


def load(program: bytes) -> int:
    """Load a socket filter and return its descriptor, which the caller closes. Raises OSError."""
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(LICENSE)
    attr = struct.pack(
        "=IIQQIIQ",
        BPF_PROG_TYPE_SOCKET_FILTER,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0,  # log_level, log_size, log_buf
        0,
        0,
    ).ljust(128, b"\0")
    buffer = ctypes.create_string_buffer(attr, len(attr))
    return checked(libc.syscall(SYS_BPF, BPF_PROG_LOAD, buffer, len(attr)), "BPF_PROG_LOAD")
