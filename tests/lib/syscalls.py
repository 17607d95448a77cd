"""System calls by name (x86-64), which of them a test may fail, and with what.

Left alone is what a supervisor must not answer in the kernel's place, each for its reason: FREE. Everything else that a
worker thread of vethd calls is asked about and can be made to fail.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

NUMBERS = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "sched_yield": 24, "mremap": 25, "madvise": 28, "dup": 32,
    "nanosleep": 35, "getpid": 39, "socket": 41, "connect": 42, "sendto": 44, "recvfrom": 45, "sendmsg": 46,
    "recvmsg": 47, "bind": 49, "getsockname": 51, "setsockopt": 54, "getsockopt": 55, "execve": 59, "exit": 60,
    "fcntl": 72, "fsync": 74, "ftruncate": 77, "rename": 82, "sigaltstack": 131, "gettid": 186, "futex": 202,
    "getdents64": 217, "restart_syscall": 219, "clock_gettime": 228, "clock_nanosleep": 230, "exit_group": 231,
    "epoll_wait": 232, "epoll_ctl": 233, "openat": 257, "newfstatat": 262, "unshare": 272, "set_robust_list": 273,
    "epoll_pwait": 281, "timerfd_settime": 286, "accept4": 288, "dup3": 292, "setns": 308, "getrandom": 318,
    "memfd_create": 319, "bpf": 321, "membarrier": 324, "statx": 332, "rseq": 334, "io_uring_enter": 426,
    "clone3": 435, "epoll_pwait2": 441,
}  # fmt: skip
NAMES = {number: name for name, number in NUMBERS.items()}

_FREE = {
    # what it answers, the descriptor is closed: a supervisor that answered instead would leak it
    "close": (),
    # the waits and the frames of loops and engines; nothing of a birth
    "wait": ("epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "timerfd_settime", "io_uring_enter", "accept4"),
    "frames": ("read", "write", "readv", "writev", "recvmsg"),
    # what the C library and Python do for themselves: they have no way to say that it failed
    "run time": (
        "futex", "mprotect", "munmap", "brk", "mremap", "madvise", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
        "sigaltstack", "sched_yield", "getpid", "gettid", "exit", "exit_group", "execve", "restart_syscall",
        "clock_gettime", "clock_nanosleep", "nanosleep", "set_robust_list", "rseq", "membarrier", "getrandom", "clone3",
    ),
}  # fmt: skip
FREE = [NUMBERS["close"], *(NUMBERS[name] for names in _FREE.values() for name in names)]

TUNSETIFF, TUNSETCARRIER, TUNGETDEVNETNS = 0x400454CA, 0x400454E2, 0x54E3
_NO_FD = (1 << 32) - 1
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_OTHER = (errno.ENOMEM, errno.EPERM)
_ERRNOS = {
    "openat": _FULL,
    "dup": _FULL,
    "fcntl": _FULL,  # F_DUPFD_CLOEXEC
    "socket": (*_FULL, errno.ENOBUFS),
    "setns": (errno.ENOMEM, errno.EPERM),
    "sendto": (errno.ENOBUFS, errno.ENOMEM, errno.EINTR),
    "recvfrom": (errno.ENOBUFS, errno.ENOMEM, errno.EINTR),
    "poll": (errno.ENOMEM, errno.EINTR),
    "bpf": (errno.EPERM, errno.ENOMEM, errno.ENOSPC),
    "mmap": (errno.ENOMEM, errno.ENOSPC),
    "getdents64": (errno.ENOMEM, errno.EINTR),
    "newfstatat": (errno.ENOMEM, errno.EINTR),
}
_IOCTLS = {
    TUNSETIFF: (errno.ENOMEM, errno.EBUSY, errno.EPERM, errno.ENOSPC, errno.EINTR),
    TUNGETDEVNETNS: _FULL,
    # the kernel has no way to fail it while the device lives, and then nothing depends on it
    TUNSETCARRIER: (),
}


class Call(NamedTuple):
    """One system call, before it is done. thread is its thread's id."""

    thread: int
    number: int
    args: tuple[int, ...]

    @property
    def name(self) -> str:
        """What it is called, an ioctl with its request."""
        name = NAMES.get(self.number, str(self.number))
        return f"ioctl({self.args[1] & 0xFFFFFFFF:#x})" if name == "ioctl" else name

    @property
    def errnos(self) -> tuple[int, ...]:
        """With what it may plausibly fail, the likeliest first."""
        name = NAMES.get(self.number, "")
        if name == "mmap" and self.args[4] & _NO_FD == _NO_FD:
            return ()  # the allocator's
        if name == "ioctl":
            return _IOCTLS.get(self.args[1] & 0xFFFFFFFF, _OTHER)
        return _ERRNOS.get(name, _OTHER)
