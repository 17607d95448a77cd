"""Compile tcpdump's filter language to classic BPF: by libpcap, or by tcpdump where only that is installed.

Never in the daemon: to compile may resolve names of hosts, which blocks.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import subprocess
from typing import Any

from vethd.model.errors import VethError
from vethd.model.insight import SNAPLEN_MAX

_LIBRARIES = ("libpcap.so.1", "libpcap.so.0.8")
_DLT_EN10MB = 1
_NETMASK_UNKNOWN = 0xFFFFFFFF
_TIMEOUT_S = 30.0

Program = list[tuple[int, int, int, int]]


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


def compiled(expression: str, *, tagged: bool = False) -> Program:
    """Compile an expression, such as "udp port 53"; "" accepts all frames. Blocks.

    tagged: also accept frames with a VLAN tag that match behind the tag. Raises VethError EINVAL with the compiler's
    words, and EOPNOTSUPP if there is no compiler.
    """
    if not expression.strip():
        return []
    if tagged:
        expression = f"({expression}) or (vlan and ({expression}))"
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return _by_library(library, expression)
    return _by_tcpdump(expression)


def _by_library(library: Any, expression: str) -> Program:
    library.pcap_open_dead.restype = library.pcap_geterr.argtypes = None
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = library.pcap_close.argtypes = (ctypes.c_void_p,)
    library.pcap_compile.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint,
    )
    handle = library.pcap_open_dead(_DLT_EN10MB, SNAPLEN_MAX)
    if not handle:
        raise VethError(errno.ENOMEM, "filter")
    program = _Program()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), expression.encode(), 1, _NETMASK_UNKNOWN):
            raise _bad(library.pcap_geterr(handle).decode(errors="replace"))
        found = program.instructions[: program.length]
        result = [(one.code, one.jt, one.jf, one.k) for one in found]
        library.pcap_freecode(ctypes.byref(program))
        return result
    finally:
        library.pcap_close(handle)


def _by_tcpdump(expression: str) -> Program:
    argv = ["tcpdump", "-y", "EN10MB", "-s", str(SNAPLEN_MAX), "-ddd", expression]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except FileNotFoundError:
        reason = "nothing here compiles filters: install libpcap (Debian: libpcap0.8) or tcpdump"
        raise VethError(errno.EOPNOTSUPP, "filter", reason=reason) from None
    except subprocess.TimeoutExpired:
        raise _bad(f"tcpdump did not compile it within {_TIMEOUT_S:g} s") from None
    if done.returncode:
        raise _bad(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "tcpdump failed")
    words = [[int(word) for word in line.split()] for line in done.stdout.splitlines()[1:]]
    return [(code, jt, jf, k) for code, jt, jf, k in words]


def _bad(reason: str) -> VethError:
    return VethError(errno.EINVAL, "filter", reason=reason)
