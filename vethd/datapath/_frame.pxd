"""The native engine's access to a frame: the verdict of model.verdict, inlined, and the offsets in a header.

A frame has the form that is read from a TAP's fd: a virtio_net_hdr in native byte order, then Ethernet in network byte
order. Every function is nogil and requires that the caller has checked the length of the data that it reads.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <string.h>
    static inline uint16_t native16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
    static inline void put_native16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
    static inline uint16_t be16(const uint8_t *p) { return ntohs(native16(p)); }
    static inline void put_be16(uint8_t *p, uint16_t v) { put_native16(p, htons(v)); }
    static inline uint32_t be32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return ntohl(v); }
    """
    uint16_t native16(const uint8_t *p) noexcept nogil
    void put_native16(uint8_t *p, uint16_t v) noexcept nogil
    uint16_t be16(const uint8_t *p) noexcept nogil
    void put_be16(uint8_t *p, uint16_t v) noexcept nogil
    uint32_t be32(const uint8_t *p) noexcept nogil

cdef enum:
    VNET_FLAGS = 0  # offsets in the virtio_net_hdr
    VNET_GSO_TYPE = 1
    VNET_HDR_LEN = 2
    VNET_GSO_SIZE = 4
    VNET_CSUM_START = 6
    VNET_CSUM_OFFSET = 8
    VNET_TAIL = 10

    F_NEEDS_CSUM = 1
    F_DATA_VALID = 2
    GSO_TCPV4 = 1
    GSO_UDP = 3
    GSO_TCPV6 = 4
    GSO_UDP_L4 = 5
    GSO_FLAGS = 0xE0  # ECN and both UDP tunnels

    ETH_HLEN = 14
    VLAN_HLEN = 4
    ETH_P_IP = 0x0800
    ETH_P_IPV6 = 0x86DD
    ETH_P_8021Q = 0x8100
    ETH_P_8021AD = 0x88A8

cdef enum:  # model.drops.Drop; _native.pyx compares them when it is imported
    FORWARD = -1
    NO_PEER
    PEER_DOWN
    NO_CARRIER
    OVERSIZE
    RUNT
    BAD_VNET_HEADER
    WRITE_ERROR
    STALE
    DROPS


cdef inline bint acceptable(const uint8_t *vnet, uint32_t frame_len) noexcept nogil:
    """Return whether a TAP accepts this header; model.vnet.acceptable()."""
    cdef uint8_t kind = vnet[VNET_GSO_TYPE]
    cdef uint32_t csum_end
    if kind:
        kind &= ~<uint8_t>GSO_FLAGS
        if kind != GSO_TCPV4 and kind != GSO_TCPV6 and kind != GSO_UDP_L4 and kind != GSO_UDP:
            return False
        if native16(vnet + VNET_GSO_SIZE) == 0:
            return False
    if vnet[VNET_FLAGS] & F_NEEDS_CSUM:
        csum_end = <uint32_t>native16(vnet + VNET_CSUM_START) + native16(vnet + VNET_CSUM_OFFSET) + 2
        if csum_end > frame_len:
            return False
    return native16(vnet + VNET_HDR_LEN) <= frame_len


cdef inline int verdict(uint8_t *data, uint32_t length, uint32_t vnet_hdr_len, uint32_t limit, bint trust) noexcept nogil:
    """Return the verdict on length bytes behind an open gate: FORWARD (trust may change the flags), or a drop."""
    cdef uint32_t frame_len
    cdef uint16_t ethertype
    if length < vnet_hdr_len:
        return BAD_VNET_HEADER
    frame_len = length - vnet_hdr_len
    if frame_len < ETH_HLEN:
        return RUNT
    if not acceptable(data, frame_len):
        return BAD_VNET_HEADER
    if frame_len > limit and data[VNET_GSO_TYPE] == 0:
        ethertype = be16(data + vnet_hdr_len + 12)
        if (ethertype != ETH_P_8021Q and ethertype != ETH_P_8021AD) or frame_len > limit + VLAN_HLEN:
            return OVERSIZE
    if trust and data[VNET_FLAGS] == 0:
        data[VNET_FLAGS] = F_DATA_VALID
    return FORWARD
