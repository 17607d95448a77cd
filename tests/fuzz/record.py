"""The record that a predecessor left: whatever it holds, what can be read of it can be written and read again."""

from __future__ import annotations

import msgspec

from vethd.model.drops import DROPS
from vethd.model.record import Record, decode, encode, encode_pair, framed, newest


def one_input(data: bytes) -> None:
    """Read data as a whole record, and, for no fuzzer finds a checksum, as the JSON in one."""
    for copy in (data, framed(data)):
        record, reasons = newest([copy, b""])
        assert all(reasons)
        try:
            known: Record | None = decode(copy)
        except ValueError:
            known = None
        assert record == known
        if record is None:
            continue
        assert all(record.untold)
        ids = [pair.id for pair in record.pairs]
        assert len(set(ids)) == len(ids)
        assert all(len(end.drops) == DROPS and end.fds for pair in record.pairs for end in pair.ends)
        assert all(pair.owner >= 0 for pair in record.pairs)
        again = decode(
            encode(record.seq, record.last_id, record.last_fd, map(encode_pair, record.pairs), record.engine)
        )
        assert again.untold == []
        assert msgspec.structs.replace(again, version=record.version) == msgspec.structs.replace(record, untold=[])
