"""Programs in raw eBPF, by bpf(2) and ctypes: no library, no compiler."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}[platform.machine()]
BPF_MAP_CREATE, BPF_PROG_LOAD = 0, 5
BPF_MAP_TYPE_ARRAY = 2
BPF_F_MMAPABLE = 1 << 10
BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP = 1, 3, 6
BPF_PSEUDO_MAP_VALUE = 2
LICENSE = b"GPL\0"

LDX_B, LDX_W, LDX_DW, STX_W, STX_DW, LD_IMM64 = 0x71, 0x61, 0x79, 0x63, 0x7B, 0x18
MOV_K, MOV_X, JEQ_K, JNE_K, JLE_K, ADD_ATOMIC_DW, CALL, EXIT = 0xB7, 0xBF, 0x15, 0x55, 0xB5, 0xDB, 0x85, 0x95

_libc = ctypes.CDLL(None, use_errno=True)


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """Return one instruction."""
    return struct.pack("=BBhi", code, src << 4 | dst, off, imm)


def returning(value: int) -> bytes:
    """Return the end of a program: it returns value."""
    return insn(MOV_K, 0, imm=value) + insn(EXIT)


def load(program: bytes, kind: int = BPF_PROG_TYPE_SOCKET_FILTER) -> int:
    """Load a program and return its descriptor, which the caller closes. Raises OSError."""
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(LICENSE)
    attr = struct.pack("=IIQQ", kind, len(program) // 8, ctypes.addressof(code), ctypes.addressof(licence))
    return _bpf(BPF_PROG_LOAD, attr)


def array(value_size: int) -> int:
    """Make an array map of one element that can be mapped; return its descriptor, which the caller closes."""
    return _bpf(BPF_MAP_CREATE, struct.pack("=IIIII", BPF_MAP_TYPE_ARRAY, 4, value_size, 1, BPF_F_MMAPABLE))


def _bpf(command: int, attr: bytes) -> int:
    buffer = ctypes.create_string_buffer(attr.ljust(128, b"\0"), 128)
    result = int(_libc.syscall(SYS_BPF, command, buffer, 128))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({command}): {os.strerror(code)}")
    return result
