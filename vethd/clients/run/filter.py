"""The seccomp filter of vethd-run: which system calls wait for the supervisor.

The filter sees a call's number and arguments, but no memory. It asks the supervisor about

    socket(AF_NETLINK, *, NETLINK_ROUTE)    always: the supervisor gives the caller a socket with a reserved number
    send and receive calls, dup, fcntl(F_DUPFD, F_DUPFD_CLOEXEC)    if the first argument is a reserved number
    ioctl(*, SIOCETHTOOL)    always

and about no other call. So a program's other traffic does not pay for a switch to the supervisor and back.
"""

from __future__ import annotations

import ctypes
import struct
import sys

from vethd.clients.run.calls import ARCHES, I386, NUMBERS, SECCOMP, TRAPPED, libc, syscall

RESERVED = ((960, 64), (65472, 64))
"""The numbers of rtnetlink sockets: the first of each range, and how many; below select()'s 1,024 if possible."""

AF_NETLINK, NETLINK_ROUTE = 16, 0
F_DUPFD, F_DUPFD_CLOEXEC = 0, 1030
SIOCETHTOOL = 0x8946
SOCKETCALL = 102  # i386's former way to all socket calls
SOCKETCALLS = {1: "socket", 9: "sendto", 11: "sendto", 16: "sendmsg"}

_LD, _JA, _JEQ, _JGE, _RET = 0x20, 0x05, 0x15, 0x35, 0x06  # classic BPF: BPF_LD|W|ABS, BPF_JMP|JA, ... BPF_RET|K
_NUMBER, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_ASKED, _ALLOWED = (_RET, 0, 0, 0x7FC00000), (_RET, 0, 0, 0x7FFF0000)  # SECCOMP_RET_USER_NOTIF, _ALLOW
_LOW = 0 if sys.byteorder == "little" else 4  # of the two words of an argument

_SET_MODE_FILTER = 1
_NEW_LISTENER, _SPEC_ALLOW, _WAIT_KILLABLE_RECV = 1 << 3, 1 << 2, 1 << 5
_PR_SET_NO_NEW_PRIVS = 38
_EACCES, _EINVAL = 13, 22

Block = list[tuple[int, int, int, int]]


def install(born: frozenset[int] = frozenset()) -> tuple[int, bool]:
    """Put the filter before this process's system calls, for good; return the listener, and a flag.

    born are the numbers of rtnetlink sockets that the program inherits. The flag is whether no_new_privs had to be set,
    so that setuid programs have no effect. Raises OSError: EBUSY if another supervisor listens already.
    """
    words = program(born)
    text = ctypes.create_string_buffer(words, len(words))
    head = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(words) // 8, ctypes.addressof(text)))
    confined = False
    flags = _NEW_LISTENER | _SPEC_ALLOW | _WAIT_KILLABLE_RECV
    while True:
        try:
            return syscall(SECCOMP, _SET_MODE_FILTER, flags, ctypes.addressof(head)), confined
        except OSError as error:
            if error.errno == _EACCES and not confined:  # no CAP_SYS_ADMIN
                confined = True
                libc.prctl(*map(ctypes.c_ulong, (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))
            elif error.errno == _EINVAL and flags & _WAIT_KILLABLE_RECV:  # before Linux 5.19
                flags &= ~_WAIT_KILLABLE_RECV
            else:
                raise


def program(born: frozenset[int] = frozenset()) -> bytes:
    """Return the filter as an array of struct sock_filter."""
    blocks: list[Block] = []
    for arch in ARCHES:
        calls = dict(zip(TRAPPED, NUMBERS[arch], strict=True))
        rules = [_socket(calls.pop("socket")), _ioctl(calls.pop("ioctl")), _fcntl(calls.pop("fcntl"), born)]
        if arch == I386:
            rules.append(_guarded(SOCKETCALL, [_arg(0), *_one_of([*SOCKETCALLS], [_ASKED]), _ALLOWED]))
        rules.append(_one_of(sorted(calls.values()), [*_reserved(born), _ALLOWED]))
        blocks.append(_guarded(arch, [(_LD, 0, 0, _NUMBER), *(rule for block in rules for rule in block), _ALLOWED]))
    whole = [(_LD, 0, 0, _ARCH), *(rule for block in blocks for rule in block), _ALLOWED]
    return b"".join(struct.pack("=HBBI", *rule) for rule in whole)


def _guarded(value: int, block: Block) -> Block:
    """Return a block that is run if the accumulator has that value, and otherwise jumped over."""
    # a jump on a condition is 8 bits long; BPF_JA has 32
    return [(_JEQ, 1, 0, value), (_JA, 0, 0, len(block)), *block]


def _arg(number: int) -> tuple[int, int, int, int]:
    """Return the load of an argument's low 32 bits."""
    return (_LD, 0, 0, _ARGS + 8 * number + _LOW)


def _socket(number: int) -> Block:
    block = [_arg(0), (_JEQ, 0, 3, AF_NETLINK), _arg(2), (_JEQ, 0, 1, NETLINK_ROUTE), _ASKED]
    return _guarded(number, [*block, _ALLOWED])


def _ioctl(number: int) -> Block:
    return _guarded(number, [_arg(1), (_JEQ, 0, 1, SIOCETHTOOL), _ASKED, _ALLOWED])


def _fcntl(number: int, born: frozenset[int]) -> Block:
    duplicates = [_arg(1), (_JEQ, 2, 0, F_DUPFD), (_JEQ, 1, 0, F_DUPFD_CLOEXEC), _ALLOWED]
    return _guarded(number, [*duplicates, *_reserved(born), _ALLOWED])


def _one_of(numbers: list[int], block: Block) -> Block:
    """Return a block that is run if the accumulator is one of numbers, and otherwise jumped over."""
    tests = [(_JEQ, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    return [*tests, (_JA, 0, 0, len(block)), *block]


def _reserved(born: frozenset[int]) -> Block:
    """Return the test of the first argument: ask if it is a reserved number or one of born, else go on."""
    block: Block = [_arg(0)]
    block += [rule for number in sorted(born) for rule in ((_JEQ, 0, 1, number), _ASKED)]
    for first, count in RESERVED:
        block += [(_JGE, 0, 2, first), (_JGE, 1, 0, first + count), _ASKED]
    return block
