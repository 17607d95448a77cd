"""The state that a daemon leaves to its successor: which end each stored fd belongs to, the specs, the counters.

The bytes are a magic, a length, a CRC-32 and JSON. Two copies are kept and written alternately, each with a number that
increases. At whatever moment a daemon is killed, one of the copies is complete (newest()).

Versions. The header and the core never change: version, seq, last_id, last_fd, pairs, and in each pair its id and its
ends with their fds. New drop reasons are only appended. In an older record, missing fields have their defaults. In a
newer or malformed record, each part that cannot be decoded is left out individually and reported (Record.untold). A
pair of which only the core can be decoded continues to forward with its devices as they are.

    1  the first version
    2  added engine, owner
    3  added attachment, txqueuelen, ring, moderation_us; alias, altname and own_alias of an end are not written
       (memory/former.py); the native engine's name is "native", and was "uring" before; specs may have latency_queue
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from vethd.model.api import MODERATION_US, SPIN_US, AttachmentKey, ModerationUs, Source, SpinUs, Workers
from vethd.model.drops import DROPS
from vethd.model.kernel_drops import KernelDrops
from vethd.model.spec import PairSpec

VERSION = 3
_MAGIC = b"vethd\0\0\1"
_HEAD = struct.Struct("=8sII")

Count = Annotated[int, msgspec.Meta(ge=0)]
Names = Annotated[list[str], msgspec.Meta(min_length=1)]


class EngineRecord(msgspec.Struct, kw_only=True, frozen=True):
    """The engine that forwarded the frames. A successor starts with the same engine, then applies its config."""

    name: str
    workers: Workers = 0
    spin_us: SpinUs = SPIN_US
    moderation_us: ModerationUs = MODERATION_US
    gro: bool = True


class EndRecord(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One end: the names of its queues' fds in the store, and its drops.

    drops is indexed by Drop. dropped_bytes is the size of all dropped frames, None in records older than this count.
    Frames that were read are not recorded: the device's own counters have them. uso is kernel.tun.Tap.uso. alias,
    altname and own_alias are read only in records of version 2 and older: the words that were written on the device,
    and whether the alias is the user's. ring is the value in effect, None in older records. Together with txqueuelen,
    the requested value, it determines the queue length that the device had.
    """

    fds: Names
    alias: str = ""
    altname: str = ""
    own_alias: bool = False
    drops: list[Count] = []
    dropped_bytes: Count | None = None
    write_errors: dict[int, Count] = {}
    kernel_drops: KernelDrops = msgspec.field(default_factory=KernelDrops)
    uso: bool = False
    txqueuelen: Count | None = None
    ring: Count | None = None


class PairRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One living pair, near end first. spec is None if the request is not known. owner is a uid."""

    id: str
    source: Source = "runtime"
    spec: PairSpec | None = None
    owner: Count = 0
    attachment: AttachmentKey | None = None
    ends: tuple[EndRecord, EndRecord]


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """The whole record. seq increases with every write; last_id and last_fd are the last numbers assigned.

    untold is not written. It lists, as sentences, the parts that could not be decoded.
    """

    version: int
    seq: int
    last_id: int
    last_fd: int
    pairs: list[PairRecord]
    engine: EngineRecord | None = None
    untold: list[str] = []


class _Core(msgspec.Struct):
    """The part of a record that every version can read."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    seq: Count
    last_id: Count
    last_fd: Count
    pairs: list[msgspec.Raw]
    engine: msgspec.Raw = msgspec.Raw(b"null")


class _CoreEnd(msgspec.Struct):
    fds: Names
    uso: bool = False


class _CorePair(msgspec.Struct):
    id: str
    ends: tuple[msgspec.Raw, msgspec.Raw]


def encode_pair(pair: PairRecord) -> msgspec.Raw:
    """Return one pair's part of a record. It is cached: when one pair changes, the other thousand stay encoded."""
    return msgspec.Raw(msgspec.json.encode(pair))


def encode(
    seq: int, last_id: int, last_fd: int, pairs: Iterable[msgspec.Raw], engine: EngineRecord | None = None
) -> bytes:
    """Return the bytes of a Record with these fields."""
    fields = {"version": VERSION, "seq": seq, "last_id": last_id, "last_fd": last_fd, "engine": engine}
    return framed(msgspec.json.encode(fields | {"pairs": list(pairs)}))


def framed(body: bytes) -> bytes:
    """Return a record's JSON with its header in front."""
    return _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def unframed(data: bytes) -> tuple[bytes, bytes]:
    """Return the JSON after a header, and the bytes that follow it. Raises ValueError if it is truncated or damaged."""
    if len(data) < _HEAD.size:
        raise ValueError("it is truncated")
    magic, length, crc = _HEAD.unpack_from(data)
    body, rest = data[_HEAD.size : _HEAD.size + length], data[_HEAD.size + length :]
    if magic != _MAGIC or len(body) != length or zlib.crc32(body) != crc:
        raise ValueError("it is damaged")
    return body, rest


def decode(data: bytes) -> Record:
    """Read a record. Raises ValueError if it is truncated or damaged, or if not even the core can be decoded."""
    body, _ = unframed(data)
    try:
        core = msgspec.json.decode(body, type=_Core)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it cannot be decoded: {error}") from error
    untold: list[str] = []
    if core.version > VERSION:
        known = f"version {core.version}, this vethd reads up to {VERSION}"
        untold.append(f"a newer vethd wrote the record ({known}): its additional fields are lost")
    pairs: dict[str, PairRecord] = {}
    for number, raw in enumerate(core.pairs):
        pair = _pair(raw, number, untold)
        if pair is not None and pair.id in pairs:
            untold.append(f"pair {pair.id} appears twice")
        elif pair is not None:
            pairs[pair.id] = pair
    return Record(
        version=core.version,
        seq=core.seq,
        last_id=max([core.last_id, *(_number(pair.id, "p") for pair in pairs.values())]),
        last_fd=max(
            [core.last_fd, *(_number(fd, "t") for pair in pairs.values() for end in pair.ends for fd in end.fds)]
        ),
        pairs=list(pairs.values()),
        engine=_part(core.engine, EngineRecord | None, None, "engine", untold),
        untold=untold,
    )


def newest(copies: Iterable[bytes]) -> tuple[Record | None, list[str]]:
    """Return the readable copy with the greatest number (None if there is none) and why others are unreadable."""
    found: list[Record] = []
    reasons: list[str] = []
    for data in copies:
        try:
            found.append(decode(data))
        except ValueError as error:
            reasons.append(str(error))
    return max(found, key=lambda record: record.seq, default=None), reasons


def _pair(raw: msgspec.Raw, number: int, untold: list[str]) -> PairRecord | None:
    """Decode a pair as a whole or, failing that, part by part; None if not even its core can be decoded."""
    try:
        pair = msgspec.json.decode(raw, type=PairRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        core = _part(raw, _CorePair, None, f"pair number {number}", untold)
        if core is None:
            return None
        ends = tuple(_end(end, f"pair {core.id}", untold) for end in core.ends)
        if ends[0] is None or ends[1] is None:
            return None
        rest: dict[str, msgspec.Raw] = _part(raw, dict[str, msgspec.Raw], {}, f"pair {core.id}", untold)
        spec, source = rest.get("spec", msgspec.Raw(b"null")), rest.get("source", msgspec.Raw(b'"runtime"'))
        return PairRecord(
            id=core.id,
            source=_part(source, Source, "runtime", f"source of pair {core.id}", untold),
            spec=_part(spec, PairSpec | None, None, f"spec of pair {core.id}", untold),
            owner=_part(rest.get("owner", msgspec.Raw(b"0")), Count, 0, f"owner of pair {core.id}", untold),
            attachment=_part(
                rest.get("attachment", msgspec.Raw(b"null")),
                AttachmentKey | None,
                None,
                f"attachment of pair {core.id}",
                untold,
            ),
            ends=(ends[0], ends[1]),
        )
    near, far = (_counted(end, f"pair {pair.id}", untold) for end in pair.ends)
    return msgspec.structs.replace(pair, ends=(near, far))


def _end(raw: msgspec.Raw, what: str, untold: list[str]) -> EndRecord | None:
    try:
        return _counted(msgspec.json.decode(raw, type=EndRecord), what, untold)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        core = _part(raw, _CoreEnd, None, f"an end of {what}", untold)
    if core is not None:
        untold.append(f"the counters of {what}: they start from the device's own counters")
    return core and _counted(EndRecord(fds=core.fds, uso=core.uso), what, untold)


def _counted(end: EndRecord, what: str, untold: list[str]) -> EndRecord:
    """Return the end with one drop counter for each reason."""
    if any(end.drops[DROPS:]):
        untold.append(f"drops of {what}: frames dropped for reasons unknown to this vethd count as forwarded")
    return msgspec.structs.replace(end, drops=[*end.drops, *[0] * DROPS][:DROPS])


def _part(raw: msgspec.Raw, kind: Any, default: Any, what: str, untold: list[str]) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        untold.append(f"{what}: {error}")
        return default


def _number(name: str, prefix: str) -> int:
    digits = name.removeprefix(prefix)
    return int(digits) if digits != name and digits.isascii() and digits.isdigit() and len(digits) < 18 else 0
