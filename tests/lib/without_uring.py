"""Runs a program where io_uring is forbidden: `python without_uring.py ERRNO PROGRAM ARGS...`.

The calls that begin with io_uring fail with that errno, by a seccomp filter, as in a container of Docker's or Podman's.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

IO_URING = (425, 426, 427)  # setup, enter, register: the same on every architecture but alpha

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_RET_ERRNO = 0x00050000
_RET_ALLOW = 0x7FFF0000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid(code: int) -> None:
    """Have io_uring's system calls fail with code, for this process and its children, for good."""
    last = len(IO_URING)
    program = [(_LOAD_WORD, 0, 0, 0)]  # struct seccomp_data begins with the call's number
    program += [(_JUMP_IF_EQUAL, last - place, 0, number) for place, number in enumerate(IO_URING)]
    program += [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_ERRNO | code)]
    code_bytes = b"".join(_INSTRUCTION.pack(*line) for line in program)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(program), code_bytes)))


def _prctl(what: int, *args: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(what, *args, *(0,) * (4 - len(args))):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    forbid(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the tests' own words
