"""Write pcapng, which Wireshark, tshark and tcpdump read. Pure: every function returns the bytes of one block.

Blocks are in the machine's byte order, as the section header says. Times are in nanoseconds since the epoch. See the
IETF draft "PCAP Next Generation Capture File Format" (draft-ietf-opsawg-pcapng).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntFlag

LINKTYPE_ETHERNET = 1
SNAPLEN = 262_144
"""The snap length of every interface: libpcap refuses a file whose interfaces differ in it."""

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER = 0x1A2B3C4D
_TEXT_MAX = 0xFFFF

Options = Iterable[tuple[int, bytes]]


class PacketFlags(IntFlag):
    """epb_flags."""

    INBOUND = 1
    OUTBOUND = 2
    TOO_LONG = 1 << 25  # link-layer errors
    TOO_SHORT = 1 << 26


VERDICT_DROPPED = bytes([1]) + struct.pack("=Q", 2)
"""epb_verdict: TC_ACT_SHOT, as type "Linux eBPF TC"; Wireshark's frame.verdict.ebpf_tc == 2."""


def section(application: str, system: str, comment: str = "") -> bytes:
    """Begin a file, or a new section of one."""
    options = [(3, _text(system)), (4, _text(application))]
    if comment:
        options.insert(0, (1, _text(comment)))
    return _block(_SECTION, struct.pack("=IHHq", _BYTE_ORDER, 1, 0, -1), options)


def interface(name: str, description: str = "", filter_: str = "") -> bytes:
    """Describe the next interface; packets name it by its number, from 0 in order."""
    options = [(2, _text(name))]
    if description:
        options.append((3, _text(description)))
    options.append((9, bytes([9])))  # if_tsresol: nanoseconds
    if filter_:
        options.append((11, bytes([0]) + _text(filter_)))
    return _block(_INTERFACE, struct.pack("=HHI", LINKTYPE_ETHERNET, 0, SNAPLEN), options)


def packet(  # noqa: PLR0913 - the fields of a block
    interface: int,
    time_ns: int,
    data: bytes,
    length: int,
    *,
    flags: PacketFlags = PacketFlags.OUTBOUND,
    comment: str = "",
    number: int | None = None,
    queue: int | None = None,
    verdict: bytes = b"",
) -> bytes:
    """Return a packet: its first bytes, and its length when it was not cut.

    number is an identifier that is the same for the same packet at another interface.
    """
    options = [(2, struct.pack("=I", flags))]
    if comment:
        options.insert(0, (1, _text(comment)))
    if number is not None:
        options.append((5, struct.pack("=Q", number)))
    if queue is not None:
        options.append((6, struct.pack("=I", queue)))
    if verdict:
        options.append((7, verdict))
    head = struct.pack("=IIIII", interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), length)
    return _block(_PACKET, head + _padded(data), options)


def statistics(  # noqa: PLR0913 - as above
    interface: int, time_ns: int, *, received: int, accepted: int, dropped: int, delivered: int
) -> bytes:
    """End an interface's part: the packets seen, those that the filter passed, those not kept, those in the file."""
    head = struct.pack("=III", interface, time_ns >> 32, time_ns & 0xFFFFFFFF)
    counts = ((4, received), (6, accepted), (7, dropped), (8, delivered))
    return _block(_STATISTICS, head, [(code, struct.pack("=Q", count)) for code, count in counts])


def _block(kind: int, body: bytes, options: Options) -> bytes:
    body += b"".join(struct.pack("=HH", code, len(value)) + _padded(value) for code, value in options) + bytes(4)
    length = struct.pack("=I", 12 + len(body))
    return struct.pack("=I", kind) + length + body + length


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")[:_TEXT_MAX]
