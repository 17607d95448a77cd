"""What a packet must look like behind a bridge or a router, worked out from how its sender's device sent it."""

from __future__ import annotations

import struct

from tests.lib.frames import ETH_HLEN, ETH_P_IP, csum, mac
from tests.lib.packet import Captured
from tests.lib.segments import ETH_P_IPV6, TCP, UDP

MF = 0x2000


def l4_of(frame: bytes) -> tuple[int, int]:
    """Return the protocol of a whole IPv4 or IPv6 packet without extension headers, and where its header begins."""
    if frame[12:14] == ETH_P_IP.to_bytes(2, "big"):
        return frame[23], ETH_HLEN + (frame[14] & 15) * 4
    assert frame[12:14] == ETH_P_IPV6.to_bytes(2, "big"), frame[12:14]
    return frame[20], ETH_HLEN + 40


def l4_sum(frame: bytes) -> int:
    """Return the sum over UDP or TCP and its pseudo-header: 0xFFFF where the checksum is right."""
    proto, at = l4_of(frame)
    addresses = frame[26:34] if at < ETH_HLEN + 40 else frame[22:54]
    return csum(addresses + struct.pack("!IHH", len(frame) - at, 0, proto) + frame[at:])


def is_valid(frame: bytes) -> bool:
    """Return whether lengths and checksums of a UDP or TCP packet are complete and right, for who knows no offload."""
    proto, at = l4_of(frame)
    if at < ETH_HLEN + 40:
        fine = int.from_bytes(frame[16:18], "big") == len(frame) - ETH_HLEN and csum(frame[ETH_HLEN:at]) == 0xFFFF
    else:
        fine = int.from_bytes(frame[18:20], "big") == len(frame) - at
    if proto == UDP:
        fine = fine and int.from_bytes(frame[at + 4 : at + 6], "big") == len(frame) - at
    return fine and l4_sum(frame) == 0xFFFF


def bridged(sent: Captured) -> bytes:
    """Return a frame as it leaves by a device without offloads: its checksum is complete."""
    if not sent.csum_partial:
        return sent.frame
    frame = bytearray(sent.frame)
    proto, at = l4_of(sent.frame)
    place = at + (16 if proto == TCP else 6)
    frame[place : place + 2] = bytes(2)
    check = (l4_sum(bytes(frame)) ^ 0xFFFF) or 0xFFFF
    # TCP's 0 stays 0; what UDP says so is that there is none
    frame[place : place + 2] = (0 if proto == TCP and check == 0xFFFF else check).to_bytes(2, "big")
    return bytes(frame)


def routed(sent: Captured, src: str, dst: str) -> bytes:
    """Return a frame as it leaves a router: between other MACs, one hop older."""
    frame = bytearray(bridged(sent))
    frame[:12] = mac(dst) + mac(src)
    if l4_of(sent.frame)[1] == ETH_HLEN + 40:
        frame[21] -= 1
    else:
        frame[22] -= 1
        frame[24:26] = bytes(2)
        frame[24:26] = (csum(bytes(frame[14:34])) ^ 0xFFFF).to_bytes(2, "big")
    return bytes(frame)


def fragmented(frame: bytes, mtu: int) -> list[bytes]:
    """Return what a router makes of an IPv4 packet without options that may be fragmented."""
    if len(frame) - ETH_HLEN <= mtu:
        return [frame]
    room = (mtu - 20) // 8 * 8
    data = frame[34:]
    out = []
    for at in range(0, len(data), room):
        part = data[at : at + room]
        head = bytearray(frame[:34])
        field = at // 8 | (MF if at + room < len(data) else 0)
        head[16:18] = (20 + len(part)).to_bytes(2, "big")
        head[20:22] = field.to_bytes(2, "big")
        head[24:26] = bytes(2)
        head[24:26] = (csum(bytes(head[14:34])) ^ 0xFFFF).to_bytes(2, "big")
        out.append(bytes(head) + part)
    return out
