"""What the kernel knows of a frame beside its bytes: the fields of struct __sk_buff, read by a program of tc.

A Recorder at va's egress and one at vb's ingress tell what a pair hands on.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from typing import Self

from tests.lib import bpf
from tests.lib.bpf import insn
from tests.lib.frames import ETH_P_IP
from tests.lib.hooks import INGRESS, TC_ACT_UNSPEC, tc
from tests.lib.lab import End
from tests.lib.wait import wait_until

# offsets in struct __sk_buff, include/uapi/linux/bpf.h
WORDS = {
    "len": 0,
    "pkt_type": 4,
    "mark": 8,
    "queue_mapping": 12,
    "vlan_present": 20,
    "vlan_tci": 24,
    "priority": 32,
    "tc_index": 44,
    "cb": 48,  # the first of five
    "hash": 68,
    "tc_classid": 72,
    "napi_id": 84,
    "wire_len": 160,  # what qdiscs count: a super-frame's headers as often as it has segments
    "gso_segs": 164,
    "gso_size": 176,
}
DOUBLE_WORDS = {"tstamp": 152, "hwtstamp": 184}
BYTES = {"tstamp_type": 180}
PROTOCOL = 16
# what the kernel says of the frame's socket: numbers of helpers
HELPERS = {"cookie": 46, "uid": 47}
FIELDS = (*WORDS, *DOUBLE_WORDS, *BYTES, *HELPERS)


class Recorder:
    """Keeps the fields of the last frame of one protocol that passed; priority is behind other programs' of the test.

    The device keeps the program until it dies; close() gives the memory back.
    """

    def __init__(self, end: End, parent: int = INGRESS, *, proto: int = ETH_P_IP, priority: int = 1) -> None:
        """Begin to record. Raises OSError."""
        fd = bpf.array(8 * (len(FIELDS) + 1))
        try:
            self._value = mmap.mmap(fd, mmap.PAGESIZE)
            tc(end, _program(fd, proto), parent, priority)
        finally:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._value.close()

    @property
    def count(self) -> int:
        """How many frames have passed."""
        return int(struct.unpack_from("=Q", self._value)[0])

    def wait(self, count: int) -> dict[str, int]:
        """Wait until so many frames have passed, and return the last one's fields."""
        wait_until(lambda: self.count >= count, what=f"{count} frames")
        assert self.count == count
        values: tuple[int, ...] = struct.unpack_from(f"={len(FIELDS)}Q", self._value, 8)
        return dict(zip(FIELDS, values, strict=True))


def writing(words: dict[str, int]) -> bytes:
    """Return a program that gives fields of WORDS a value, as far as tc lets it."""
    stores = (insn(bpf.MOV_K, 2, imm=value) + insn(bpf.STX_W, 1, 2, WORDS[name]) for name, value in words.items())
    return b"".join(stores) + bpf.returning(TC_ACT_UNSPEC)


def _program(map_fd: int, proto: int) -> bytes:
    """Assemble the recorder. Registers: r6 the frame, r7 the map's element."""
    read: list[bytes] = []
    for code, offsets in ((bpf.LDX_W, WORDS), (bpf.LDX_DW, DOUBLE_WORDS), (bpf.LDX_B, BYTES)):
        read += [insn(code, 0, 6, offset) for offset in offsets.values()]
    read += [insn(bpf.MOV_X, 1, 6) + insn(bpf.CALL, imm=helper) for helper in HELPERS.values()]
    body = insn(bpf.LD_IMM64, 7, bpf.BPF_PSEUDO_MAP_VALUE, imm=map_fd) + insn(0)
    for place, value in enumerate(read, 1):
        body += value + insn(bpf.STX_DW, 7, 0, 8 * place)
    body += insn(bpf.MOV_K, 1, imm=1) + insn(bpf.ADD_ATOMIC_DW, 7, 1)
    head = insn(bpf.MOV_X, 6, 1) + insn(bpf.LDX_W, 2, 6, PROTOCOL)
    other = insn(bpf.JNE_K, 2, off=len(body) // 8, imm=socket.htons(proto))
    return head + other + body + bpf.returning(TC_ACT_UNSPEC)
