"""The system calls that vethd-run makes and traps: their numbers by architecture, and the C library's syscall(2)."""

from __future__ import annotations

import _socket
import ctypes
import posix

TRAPPED = (
    *("socket", "sendto", "sendmsg", "sendmmsg", "write", "writev", "recvfrom", "recvmsg", "read"),
    *("dup", "fcntl", "ioctl"),
)
"""The calls that the filter may ask about."""

_X86_64 = (41, 44, 46, 307, 1, 20, 45, 47, 0, 32, 72, 16)
_I386 = (359, 369, 370, 345, 4, 146, 371, 372, 3, 41, 221, 54)  # fcntl64
_GENERIC = (198, 206, 211, 269, 64, 66, 207, 212, 63, 23, 25, 29)  # asm-generic/unistd.h: arm64, riscv64, loongarch64
_ARM = (281, 290, 296, 374, 4, 146, 292, 297, 3, 41, 221, 54)

# AUDIT_ARCH_* of linux/audit.h
X86_64, I386 = 0xC000003E, 0x40000003
_AARCH64, _ARM_EABI, _RISCV64, _LOONGARCH64 = 0xC00000B7, 0x40000028, 0xC00000F3, 0xC0000102

NUMBERS = {
    X86_64: _X86_64,
    I386: _I386,
    _AARCH64: _GENERIC,
    _ARM_EABI: _ARM,
    _RISCV64: _GENERIC,
    _LOONGARCH64: _GENERIC,
}
"""AUDIT_ARCH -> the number of each call in TRAPPED."""
NAMES = {
    (arch, number): name for arch, numbers in NUMBERS.items() for name, number in zip(TRAPPED, numbers, strict=True)
}
WIDE = frozenset({X86_64, _AARCH64, _RISCV64, _LOONGARCH64})
"""The architectures with 64-bit pointers."""

_MACHINES = {
    "x86_64": ((X86_64, I386), 317),
    "aarch64": ((_AARCH64, _ARM_EABI), 277),
    "riscv64": ((_RISCV64,), 277),
    "loongarch64": ((_LOONGARCH64,), 277),
}
"""Machine -> the architectures that its programs can have, and the number of seccomp(2)."""
_MACHINE = _MACHINES.get(posix.uname().machine)

ARCHES = _MACHINE[0] if _MACHINE else ()
SECCOMP = _MACHINE[1] if _MACHINE else -1
PIDFD_GETFD = 438  # on every architecture but alpha

libc = ctypes.CDLL(None, use_errno=True)
for _name in ("process_vm_readv", "process_vm_writev"):
    _function = getattr(libc, _name)
    _function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    ]
    _function.restype = ctypes.c_ssize_t
_syscall = libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 7


def syscall(number: int, *args: int) -> int:
    """Make a system call with integers and addresses as arguments, and return its result. Raises OSError."""
    done = _syscall(number, *args, *(0,) * (6 - len(args)))
    if done < 0:
        raise failed()
    return int(done)


def failed() -> OSError:
    """Return the error of the C library's last call."""
    number = ctypes.get_errno()
    return OSError(number, posix.strerror(number))


class Socket(_socket.socket):
    """A socket that a with statement closes; the module socket takes 4 ms to import."""

    def __enter__(self) -> Socket:  # noqa: PYI034 - importing typing takes 4 ms
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
