"""The file for a successor that inherits no fds: the record, and the place of each of its devices.

The bytes are those of a record (record.py), followed by another magic, length, CRC-32 and JSON: a Whereabouts. Later
versions may add fields with defaults to it. A Whereabouts with a field of an unexpected type is refused as a whole,
because the places cannot be guessed.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vethd.model.record import Record, decode, framed, unframed


class Spot(msgspec.Struct, kw_only=True, frozen=True):
    """The place of one end's device, and the values that identify the device; name is for the log.

    netns is a name of `ip netns`, "" for the daemon's own. vnet_hdr_len belongs to the offloads that were set.
    """

    name: str
    netns: str
    ifindex: Annotated[int, msgspec.Meta(ge=1)]
    address: str
    vnet_hdr_len: int


class Whereabouts(msgspec.Struct, kw_only=True, frozen=True):
    """Every end's spot, by the name of its first fd in the record; boot is the kernel's boot id."""

    boot: str
    spots: dict[str, Spot]


def write_down(record: bytes, places: Whereabouts) -> bytes:
    """Return the file's bytes."""
    return record + framed(msgspec.json.encode(places))


def read_back(data: bytes) -> tuple[bytes, Record, Whereabouts]:
    """Return the record, as bytes and decoded, and the places of its ends. Raises ValueError."""
    record = decode(data)
    _, rest = unframed(data)
    body, _ = unframed(rest)
    try:
        return data[: len(data) - len(rest)], record, msgspec.json.decode(body, type=Whereabouts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it cannot be decoded: {error}") from error
