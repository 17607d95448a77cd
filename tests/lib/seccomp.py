"""A filter that forbids this thread, and the processes that it makes, one system call: as container runtimes do it."""

from __future__ import annotations

import ctypes
import os
import struct

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
RET_ERRNO, RET_ALLOW = 0x00050000, 0x7FFF0000
LD_W_ABS, JEQ_K, RET_K = 0x20, 0x15, 0x06  # classic BPF
IO_URING_SETUP = 425  # on every architecture but alpha


def forbid(number: int, code: int) -> None:
    """Make system call number answer the errno code from now on; for good. Raises OSError."""
    rules = (
        (LD_W_ABS, 0, 0, 0),  # struct seccomp_data begins with the number
        (JEQ_K, 0, 1, number),
        (RET_K, 0, 0, RET_ERRNO | code),
        (RET_K, 0, 0, RET_ALLOW),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
    head = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(rules), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)  # prctl(2) looks at all five arguments
    for what in (
        (PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero),
        (PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), head, zero, zero),
    ):
        if libc.prctl(*what) != 0:
            failed = ctypes.get_errno()
            raise OSError(failed, f"prctl: {os.strerror(failed)}")
