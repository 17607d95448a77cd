"""Classic BPF as a capture's filter: the check that a program must pass, and what it means. Pure.

The check is that of the kernel's bpf_check_classic(), without its ancillary loads. A program runs on a frame, Ethernet
header first. The native engine has the same interpreter; tests compare the two.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import NamedTuple

from vethd.model.errors import VethError

LENGTH_MAX = 4096
"""BPF_MAXINSNS: instructions of a program."""

WORDS = 16
"""BPF_MEMWORDS."""

_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_X, _A, _TXA = 0x08, 0x10, 0x80
_DIV, _LSH, _RSH, _MOD = 0x30, 0x60, 0x70, 0x90
_MASK = 0xFFFFFFFF
_WIDTHS = {0x00: 4, 0x08: 2, 0x10: 1}
_ANCILLARY = 0xFFFFF000  # SKF_AD_OFF; larger offsets are negative numbers to the kernel

_LOADS = {_LD | mode | width for mode in (_ABS, _IND) for width in _WIDTHS}
_LOADS |= {_LD | _IMM, _LD | _MEM, _LD | _LEN, _LDX | _IMM, _LDX | _MEM, _LDX | _LEN, _LDX | _MSH | 0x10}
_ARITHMETIC = {_ALU | operation | source for operation in range(0, 0xB0, 0x10) for source in (0, _X)} - {
    _ALU | 0x80 | _X
}
_JUMPS = {_JMP | operation | source for operation in (0x10, 0x20, 0x30, 0x40) for source in (0, _X)} | {_JMP}
_KNOWN = _LOADS | _ARITHMETIC | _JUMPS | {_ST, _STX, _RET, _RET | _A, _MISC, _MISC | _TXA}


class Instruction(NamedTuple):
    """struct sock_filter."""

    code: int
    jt: int
    jf: int
    k: int


def check(program: Sequence[Instruction]) -> None:
    """Check that a program always ends, and never touches anything but its frame and its words.

    Raises VethError EINVAL with the instruction's number.
    """
    if len(program) > LENGTH_MAX:
        raise _bad(f"{len(program)} instructions; at most {LENGTH_MAX} are allowed")
    if not program or program[-1].code & 7 != _RET:
        raise _bad("the last instruction does not return")
    for number, one in enumerate(program):
        if not (0 <= one.jt <= 0xFF and 0 <= one.jf <= 0xFF and 0 <= one.k <= _MASK):
            raise _bad(f"instruction {number} has a field out of range")
        if reason := _fault(one, len(program) - number - 1):
            raise _bad(f"instruction {number} {reason}")


def run(program: Sequence[Instruction], frame: bytes) -> int:
    """Return what a checked program returns for a frame: 0 refuses it."""
    a = x = at = 0
    words = [0] * WORDS
    while True:
        code, jt, jf, k = program[at]
        at += 1
        kind = code & 7
        operand = x if code & _X else k
        if kind in (_LD, _LDX):
            loaded = _load(code, k, x, words, frame)
            if loaded is None:
                return 0
            a, x = (loaded, x) if kind == _LD else (a, loaded)
        elif kind in (_ST, _STX):
            words[k] = a if kind == _ST else x
        elif kind == _ALU:
            if operand == 0 and code & 0xF0 in (_DIV, _MOD):
                return 0
            a = _arithmetic(code & 0xF0, a, operand)
        elif kind == _JMP:
            at += k if code == _JMP else jt if _holds(code & 0xF0, a, operand) else jf
        elif kind == _RET:
            return a if code & _A else k
        else:
            a, x = (x, x) if code & _TXA else (a, a)


def _fault(one: Instruction, behind: int) -> str:
    """Return what is wrong with an instruction that has `behind` others behind it, "" if nothing is."""
    kind, mode = one.code & 7, one.code & 0xE0
    if one.code not in _KNOWN:
        return f"has the unknown code {one.code:#x}"
    if kind == _JMP and (one.k if one.code == _JMP else max(one.jt, one.jf)) >= behind:
        return "jumps out of the program"
    if (kind in (_ST, _STX) or (kind in (_LD, _LDX) and mode == _MEM)) and one.k >= WORDS:
        return f"uses word {one.k}; there are {WORDS}"
    if kind == _ALU and not one.code & _X:
        if one.k == 0 and one.code & 0xF0 in (_DIV, _MOD):
            return "divides by 0"
        if one.k >= 32 and one.code & 0xF0 in (_LSH, _RSH):
            return "shifts by 32 or more"
    if kind == _LD and mode in (_ABS, _IND) and one.k >= _ANCILLARY:
        return "reads what is not in the frame"
    return ""


def _load(code: int, k: int, x: int, words: list[int], frame: bytes) -> int | None:
    """Return the loaded value, None beyond the frame's end."""
    mode = code & 0xE0
    if mode == _IMM:
        return k
    if mode == _MEM:
        return words[k]
    if mode == _LEN:
        return len(frame)
    if mode == _MSH:
        return (frame[k] & 0xF) * 4 if k < len(frame) else None
    offset, width = k + (x if mode == _IND else 0), _WIDTHS[code & 0x18]
    return int.from_bytes(frame[offset : offset + width]) if offset + width <= len(frame) else None


def _arithmetic(operation: int, a: int, b: int) -> int:
    results = (
        lambda: a + b,
        lambda: a - b,
        lambda: a * b,
        lambda: a // b,
        lambda: a | b,
        lambda: a & b,
        lambda: a << (b & 31),
        lambda: a >> (b & 31),
        lambda: -a,
        lambda: a % b,
        lambda: a ^ b,
    )
    return results[operation >> 4]() & _MASK


def _holds(operation: int, a: int, b: int) -> bool:
    return (a == b, a > b, a >= b, bool(a & b))[(operation >> 4) - 1]


def _bad(reason: str) -> VethError:
    return VethError(errno.EINVAL, "filter", reason=reason)
