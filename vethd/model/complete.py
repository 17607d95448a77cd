"""What the kernel makes of a frame and its virtio_net_hdr when it leaves by a device without offloads. Pure.

A frame with NEEDS_CSUM gets its checksum, a super-frame is cut into its segments: as skb_checksum_help(),
tcp_gso_segment(), __udp_gso_segment() and inet_gso_segment() do it.
"""

from __future__ import annotations

from vethd.model.vnet import F_NEEDS_CSUM, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_TUNNEL, GSO_UDP_L4, VnetHdr

_ETH_HLEN = 14
_VLAN_HLEN = 4
_VLANS = (b"\x81\x00", b"\x88\xa8")
_IPV4 = b"\x08\x00"
_UDP_HLEN = 8
_UDP_CHECK = 6  # csum_offset of UDP, where a checksum of 0 means that there is none
_TCP_CHECK = 16
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80


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
    value = ~checksum(frame[start:]) & 0xFFFF or 0xFFFF  # CSUM_MANGLED_0, of every protocol
    return frame[:at] + value.to_bytes(2) + frame[at + 2 :]


def segments(vnet: bytes, frame: bytes) -> list[bytes]:
    """Cut a whole super-frame of TCP or UDP into its segments, with their checksums; return any other frame completed.

    A super-frame in a tunnel, and one of UDP fragments, stays whole.
    """
    header = VnetHdr.parse(vnet)
    kind = header.gso_type & ~GSO_ECN
    l4 = header.csum_start
    tcp = kind in (GSO_TCPV4, GSO_TCPV6)
    if not (tcp or kind == GSO_UDP_L4) or kind & GSO_TUNNEL or not header.flags & F_NEEDS_CSUM:
        return [completed(vnet, frame)]
    ip = _ip_at(frame)
    end = l4 + ((frame[l4 + 12] >> 4) * 4 if tcp and l4 + 12 < len(frame) else _UDP_HLEN)
    if not ip + 20 <= l4 or end >= len(frame) or not header.gso_size:
        return [completed(vnet, frame)]
    found = []
    for number, start in enumerate(range(end, len(frame), header.gso_size)):
        payload = frame[start : start + header.gso_size]
        last = start + len(payload) == len(frame)
        one = bytearray(frame[:end] + payload)
        _set_ip(one, ip, number)
        if tcp:
            _set_tcp(one, l4, start - end, first=number == 0, last=last)
        else:
            one[l4 + 4 : l4 + 6] = (len(one) - l4).to_bytes(2)
        found.append(_summed(one, ip, l4, _TCP_CHECK if tcp else _UDP_CHECK))
    return found


def _ip_at(frame: bytes) -> int:
    """Return where the IP header begins, behind any VLAN tags."""
    at = 12
    while frame[at : at + 2] in _VLANS:
        at += _VLAN_HLEN
    return at + 2


def _is_ipv4(frame: bytes | bytearray, ip: int) -> bool:
    return frame[ip - 2 : ip] == _IPV4


def _set_ip(one: bytearray, ip: int, number: int) -> None:
    """Set a segment's length, and of IPv4 the id and the header's checksum."""
    if not _is_ipv4(one, ip):
        one[ip + 4 : ip + 6] = (len(one) - ip - 40).to_bytes(2)
        return
    one[ip + 2 : ip + 4] = (len(one) - ip).to_bytes(2)
    one[ip + 4 : ip + 6] = (int.from_bytes(one[ip + 4 : ip + 6]) + number & 0xFFFF).to_bytes(2)
    one[ip + 10 : ip + 12] = b"\0\0"
    length = (one[ip] & 0xF) * 4
    one[ip + 10 : ip + 12] = (~checksum(bytes(one[ip : ip + length])) & 0xFFFF).to_bytes(2)


def _set_tcp(one: bytearray, l4: int, offset: int, *, first: bool, last: bool) -> None:
    """Set a segment's sequence number; only the first has CWR, only the last FIN and PSH."""
    one[l4 + 4 : l4 + 8] = (int.from_bytes(one[l4 + 4 : l4 + 8]) + offset & 0xFFFFFFFF).to_bytes(4)
    if not first:
        one[l4 + 13] &= ~_CWR & 0xFF
    if not last:
        one[l4 + 13] &= ~(_FIN | _PSH) & 0xFF


def _summed(one: bytearray, ip: int, l4: int, check: int) -> bytes:
    """Set the checksum over the pseudo header, and return the segment."""
    addresses = one[ip + 12 : ip + 20] if _is_ipv4(one, ip) else one[ip + 8 : ip + 40]
    protocol = 17 if check == _UDP_CHECK else 6
    one[l4 + check : l4 + check + 2] = b"\0\0"
    pseudo = bytes(addresses) + bytes([0, protocol]) + (len(one) - l4).to_bytes(4)
    one[l4 + check : l4 + check + 2] = _final(checksum(pseudo + bytes(one[l4:])), check)
    return bytes(one)


def _final(total: int, check: int) -> bytes:
    value = ~total & 0xFFFF
    return (0xFFFF if value == 0 and check == _UDP_CHECK else value).to_bytes(2)
