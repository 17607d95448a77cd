"""What is written for a successor who inherits no fds: the record, and where each of its devices is to be found.

The bytes are a record's (record.py), and behind them once more a magic, a length, a CRC-32 and JSON: a Whereabouts. It
may grow fields with defaults; one that is of another kind is refused whole, as what it is about cannot be guessed.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vethd.model.record import Record, decode, framed, unframed


class Spot(msgspec.Struct, kw_only=True, frozen=True):
    """Where one end's device is, and what proves that it is the one; name is for the log.

    netns is a name of `ip netns`, "" for the daemon's own. vnet_hdr_len goes with the offloads that were set.
    """

    name: str
    netns: str
    ifindex: Annotated[int, msgspec.Meta(ge=1)]
    address: str
    vnet_hdr_len: int


class Whereabouts(msgspec.Struct, kw_only=True, frozen=True):
    """Every end's spot, by the name of its first fd in the record; boot is the kernel's id of its run."""

    boot: str
    spots: dict[str, Spot]


def write_down(record: bytes, places: Whereabouts) -> bytes:
    """Return the file's bytes."""
    return record + framed(msgspec.json.encode(places))


def read_back(data: bytes) -> tuple[bytes, Record, Whereabouts]:
    """Return the record, as it was written and as it reads, and where its ends are. Raises ValueError."""
    record = decode(data)
    _, rest = unframed(data)
    body, _ = unframed(rest)
    try:
        return data[: len(data) - len(rest)], record, msgspec.json.decode(body, type=Whereabouts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is odd: {error}") from error
