"""What a receiver's kernel makes of a frame's offload header: the whole checksum. Pure."""

from __future__ import annotations

from vethd.model.vnet import F_NEEDS_CSUM, VnetHdr

_UDP_CHECK = 6  # csum_offset of UDP, where a checksum of 0 means that there is none


def checksum(data: bytes) -> int:
    """Return the sum of data as 16-bit numbers in network byte order, with end-around carry (RFC 1071)."""
    number = int.from_bytes(data + b"\0" * (len(data) % 2))
    return number % 0xFFFF or (0xFFFF if number else 0)


def completed(vnet: bytes, frame: bytes) -> bytes:
    """Return a whole frame with its checksum, if the virtio_net_hdr says that it is still to be computed.

    The field has the sum of the pseudo header then, as for CHECKSUM_PARTIAL in the kernel. A super-frame gets the
    checksum that one packet of its length has.
    """
    header = VnetHdr.parse(vnet)
    if not header.flags & F_NEEDS_CSUM:
        return frame
    start, at = header.csum_start, header.csum_start + header.csum_offset
    if at + 2 > len(frame):
        return frame
    value = ~checksum(frame[start:]) & 0xFFFF
    if value == 0 and header.csum_offset == _UDP_CHECK:
        value = 0xFFFF
    return frame[:at] + value.to_bytes(2) + frame[at + 2 :]
