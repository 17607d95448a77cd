"""Filters on system calls: one that forbids a call, as container runtimes do it, and one that asks about each.

Both hold for this thread and the processes that it makes, for good.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable, Sequence

PR_SET_NO_NEW_PRIVS = 38
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
SYS_IOCTL = {"x86_64": 16, "aarch64": 29}
ARG_1 = 24  # struct seccomp_data: where the second argument begins
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 1 << 3
RET_ERRNO, RET_USER_NOTIF, RET_ALLOW = 0x00050000, 0x7FC00000, 0x7FFF0000
LD_W_ABS, JEQ_K, RET_K = 0x20, 0x15, 0x06  # classic BPF
IO_URING_SETUP = 425  # on every architecture but alpha

Rule = tuple[int, int, int, int]

WITHOUT = """
import os, sys
from tests.lib.seccomp import forbid
forbid(int(sys.argv[1]), int(sys.argv[2]))
os.execvp(sys.argv[3], sys.argv[3:])
"""


def without(number: int, code: int) -> list[str]:
    """Return the beginning of a command line whose program gets the errno code from system call number."""
    return [sys.executable, "-c", WITHOUT, str(number), str(code)]


def forbid(number: int, code: int) -> None:
    """Make system call number answer the errno code from now on; for good. Raises OSError."""
    _install([(JEQ_K, 0, 1, number), (RET_K, 0, 0, RET_ERRNO | code), (RET_K, 0, 0, RET_ALLOW)])


def forbid_ioctl(request: int, code: int) -> None:
    """Make ioctl(2) answer the errno code to this request from now on, as forbid(). For little-endian machines."""
    answer = [(JEQ_K, 0, 1, request), (RET_K, 0, 0, RET_ERRNO | code), (RET_K, 0, 0, RET_ALLOW)]
    _install([(JEQ_K, 1, 0, SYS_IOCTL[platform.machine()]), (RET_K, 0, 0, RET_ALLOW), (LD_W_ABS, 0, 0, ARG_1), *answer])


def ask_about_all_but(free: Iterable[int]) -> int:
    """Have every system call wait for a supervisor's word from now on, but those numbers. Raises OSError.

    Gives the descriptor on which the supervisor hears of them: seccomp_unotify(2). It closes on exec.
    """
    numbers = sorted(free)
    rules = [(JEQ_K, len(numbers) - n, 0, number) for n, number in enumerate(numbers)]
    return _install([*rules, (RET_K, 0, 0, RET_USER_NOTIF), (RET_K, 0, 0, RET_ALLOW)], SECCOMP_FILTER_FLAG_NEW_LISTENER)


def _install(rules: Sequence[Rule], flags: int = 0) -> int:
    """Put a filter before system calls; rules begin with the call's number in hand."""
    program = ((LD_W_ABS, 0, 0, 0), *rules)  # struct seccomp_data begins with the number
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in program))
    head = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(program), ctypes.addressof(text)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)  # prctl(2) looks at all five arguments
    libc.syscall.restype = ctypes.c_long
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        raise _failure("prctl")
    words = (SYS_SECCOMP[platform.machine()], SECCOMP_SET_MODE_FILTER, flags)
    made = libc.syscall(*map(ctypes.c_long, words), head)
    if made < 0:
        raise _failure("seccomp")
    return int(made)


def _failure(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")
