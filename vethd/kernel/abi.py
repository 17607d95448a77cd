"""The parts of the kernel's user API whose numbers depend on the architecture: ioctls, bpf(2), BPF instructions.

The kernel reports its own architecture (uname(2)). A program of 32 bits on a 64-bit kernel uses other numbers of system
calls, so the size of a pointer counts as well.

Kernel: arch/*/include/uapi/asm/ioctl.h, include/uapi/asm-generic/ioctl.h, arch/*/kernel/syscalls/*.tbl.
"""

from __future__ import annotations

import os
import struct
import sys

MACHINE = os.uname().machine
POINTER = struct.calcsize("P")

# uname's machine by its beginning; the first that fits counts
_FAMILIES = {
    "x86_64": "x86", "i386": "x86", "i486": "x86", "i586": "x86", "i686": "x86",
    "aarch64": "arm64", "armv8": "arm64", "arm": "arm",
    "riscv": "generic", "loongarch": "generic",
    "mips": "mips", "ppc": "ppc", "sparc": "sparc", "alpha": "alpha", "parisc": "parisc", "s390": "s390",
}  # fmt: skip
_BPF = {  # by the size of a pointer
    "x86": {8: 321, 4: 357},
    "arm64": {8: 280, 4: 386},
    "arm": {4: 386},
    "generic": {8: 280, 4: 280},
    "mips": {8: 5315, 4: 4355},
    "ppc": {8: 361, 4: 361},
    "sparc": {8: 349, 4: 349},
    "alpha": {8: 515},
    "parisc": {8: 341, 4: 341},
    "s390": {8: 351, 4: 351},
}
_DIRECTIONS = {  # _IOC_NONE, _IOC_READ, _IOC_WRITE, and the bits of the size
    "mips": (1, 2, 4, 13),
    "ppc": (1, 2, 4, 13),
    "sparc": (1, 2, 4, 13),
    "alpha": (1, 2, 4, 13),
    "parisc": (0, 1, 2, 14),
}
_GENERIC = (0, 2, 1, 14)
_SIZE_SHIFT = 16


def _family(machine: str) -> str:
    return next((family for start, family in _FAMILIES.items() if machine.startswith(start)), "")


def bpf_number(machine: str = MACHINE, pointer: int = POINTER) -> int | None:
    """Return the number of bpf(2), None if it is not known."""
    return _BPF.get(_family(machine), {}).get(pointer)


def ioctl_none(kind: int, number: int, machine: str = MACHINE) -> int:
    """Return the number of an ioctl without an argument that the kernel describes: _IO()."""
    return _ioctl(0, kind, number, 0, machine)


def ioctl_read(kind: int, number: int, size: int, machine: str = MACHINE) -> int:
    """Return the number of an ioctl that reads size bytes: _IOR()."""
    return _ioctl(1, kind, number, size, machine)


def ioctl_write(kind: int, number: int, size: int, machine: str = MACHINE) -> int:
    """Return the number of an ioctl that writes size bytes: _IOW()."""
    return _ioctl(2, kind, number, size, machine)


def bpf_registers(dst: int, src: int, byteorder: str = sys.byteorder) -> int:
    """Return the byte of a BPF instruction with its two registers: bit fields, so the byte order decides."""
    return dst | src << 4 if byteorder == "little" else src | dst << 4


def _ioctl(direction: int, kind: int, number: int, size: int, machine: str) -> int:
    *directions, size_bits = _DIRECTIONS.get(_family(machine), _GENERIC)
    return directions[direction] << (_SIZE_SHIFT + size_bits) | size << _SIZE_SHIFT | kind << 8 | number
