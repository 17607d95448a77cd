"""What a daemon leaves to its successor: which stored fd is which end, what was asked for, what was counted.

The bytes are a magic, a length, a CRC-32 and JSON. Two copies are kept and written by turns, each with a number that
grows: whatever moment a daemon is killed at, one of them is whole (newest()).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import msgspec

from vethd.model.api import Source
from vethd.model.drops import DROPS
from vethd.model.kernel_drops import KernelDrops
from vethd.model.spec import PairSpec

VERSION = 1
_MAGIC = b"vethd\0\0\1"
_HEAD = struct.Struct("=8sII")


class EndRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One end: the names of its queues' fds in the store, what was published there, and its drops.

    drops is indexed by Drop, dropped_bytes is what they come to: None in a record from before that was counted. What
    was read is not here: the device's own counters know. uso is kernel.tun.Tap.uso.
    """

    fds: list[str]
    alias: str
    altname: str
    own_alias: bool
    drops: list[int]
    dropped_bytes: int | None = None
    write_errors: dict[int, int]
    kernel_drops: KernelDrops
    uso: bool = False


class PairRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One living pair, near end first."""

    id: str
    source: Source
    spec: PairSpec
    ends: tuple[EndRecord, EndRecord]


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """Everything. seq grows with every writing; last_id and last_fd are the last numbers given out."""

    version: int
    seq: int
    last_id: int
    last_fd: int
    pairs: list[PairRecord]


def encode_pair(pair: PairRecord) -> msgspec.Raw:
    """Give one pair's part of a record: a thousand of them are not encoded anew because one changed."""
    return msgspec.Raw(msgspec.json.encode(pair))


def encode(seq: int, last_id: int, last_fd: int, pairs: Iterable[msgspec.Raw]) -> bytes:
    """Give the bytes of a Record with those fields."""
    fields = {"version": VERSION, "seq": seq, "last_id": last_id, "last_fd": last_fd, "pairs": list(pairs)}
    body = msgspec.json.encode(fields)
    return _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def decode(data: bytes) -> Record:
    """Read a record. Raises ValueError where it is cut short, damaged, or of another version."""
    if len(data) < _HEAD.size:
        raise ValueError("the record is cut short")
    magic, length, crc = _HEAD.unpack_from(data)
    body = data[_HEAD.size : _HEAD.size + length]
    if magic != _MAGIC or len(body) != length or zlib.crc32(body) != crc:
        raise ValueError("the record is damaged")
    record = msgspec.json.decode(body, type=Record)
    if record.version != VERSION:
        raise ValueError(f"the record has version {record.version}, this vethd reads {VERSION}")
    if any(len(end.drops) != DROPS for pair in record.pairs for end in pair.ends):
        raise ValueError("the record counts other drops than this vethd")
    return record


def newest(copies: Iterable[bytes]) -> Record | None:
    """Give the readable copy with the greatest number, None where there is none."""
    found: list[Record] = []
    for data in copies:
        try:
            found.append(decode(data))
        except (ValueError, msgspec.DecodeError):
            continue
    return max(found, key=lambda record: record.seq, default=None)
