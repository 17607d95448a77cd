"""Coalescing in the native engine: the rules of model.gro, over buffers that have room behind their frame.

Theory of operation. A Batch covers one turn of a lane. Every forwarded frame is offered to it. Either the frame's
payload is copied behind the super-frame of its flow (a copy of cached bytes costs less than one more write for the
kernel), or the frame stays in its own buffer and may become the super-frame that later frames join. gro_end() completes
the headers of the super-frames that grew. Until then, lengths and checksums in the head's buffer are those of the first
frame.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from vethd.datapath._frame cimport (
    ETH_HLEN, ETH_P_IP, ETH_P_IPV6, F_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_CSUM_OFFSET, VNET_CSUM_START,
    VNET_FLAGS, VNET_GSO_SIZE, VNET_GSO_TYPE, VNET_HDR_LEN, VNET_TAIL, be16, be32, put_be16, put_native16, native16,
)

cdef enum:
    FLOWS = 16  # model.gro.FLOWS
    UDP_SEGMENTS = 64  # UDP_MAX_SEGMENTS of the kernels before 6.9
    SUPER_MAX = 65535  # bytes of a super-frame, Ethernet header included
    TCP = 6
    UDP = 17
    TCP_ACK = 0x10
    TCP_PSH = 0x08
    TCP_FLAGS = 13  # offsets in the TCP header
    TCP_CHECK = 16
    UDP_CHECK = 6


cdef struct Buffer:  # one frame, or the super-frame that it has become
    uint8_t *data
    uint32_t length  # with the virtio_net_hdr
    uint32_t frames, frame_bytes  # as they were read; bytes without the virtio_net_hdr
    uint64_t number  # of the first one: how many its lane has read


cdef struct Place:  # the parts of one frame; offsets from the Ethernet header
    uint8_t version, protocol
    bint candidate
    uint32_t l4, payload, end


cdef struct Entry:  # an open super-frame
    Buffer *head
    Place place  # of the first frame
    bint open
    uint32_t opened  # its number in the order of opening
    uint32_t hash, count, gso_size, next_seq
    uint16_t check, last_flags


cdef struct Batch:
    uint32_t vnet_hdr_len
    bint udp  # whether datagrams may coalesce: see model.gro.coalesce()
    uint32_t entries  # elements of flows that have been used
    uint32_t opened  # number of super-frames opened so far
    Entry flows[FLOWS]


cdef inline uint16_t folded(uint32_t total) noexcept nogil:
    """Fold a sum of 16-bit words, with end-around carry."""
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>((total & 0xFFFF) + (total >> 16))


cdef inline uint16_t moved(uint16_t check, uint32_t old, uint32_t new) noexcept nogil:
    """Return the pseudo-header sum check with the length new instead of old."""
    return folded(<uint32_t>check + (~old & 0xFFFF) + new)


cdef inline uint16_t ip_checksum(const uint8_t *ip) noexcept nogil:
    """Return the checksum of a 20-byte IPv4 header, regardless of the value in its checksum field."""
    cdef uint32_t total = 0
    cdef int i
    for i in range(0, 20, 2):
        if i != 10:
            total += be16(ip + i)
    return ~folded(total)


cdef inline bint find_place(const uint8_t *vnet, uint32_t vnet_hdr_len, uint32_t frame_len, Place *place) noexcept nogil:
    """Find a frame's flow, and whether it may join or be joined; False if it has no flow."""
    cdef const uint8_t *eth = vnet + vnet_hdr_len
    cdef const uint8_t *ip = eth + ETH_HLEN
    cdef const uint8_t *l4
    cdef uint16_t ethertype = be16(eth + 12)
    cdef bint whole
    if ethertype == ETH_P_IP:
        if frame_len < ETH_HLEN + 20 + 4 or ip[0] != 0x45 or be16(ip + 6) & 0x3FFF:
            return False
        place.version, place.protocol, place.l4 = 4, ip[9], ETH_HLEN + 20
        whole = ETH_HLEN + <uint32_t>be16(ip + 2) == frame_len and be16(ip + 10) == ip_checksum(ip)
    elif ethertype == ETH_P_IPV6:
        if frame_len < ETH_HLEN + 40 + 4 or ip[0] >> 4 != 6:
            return False
        place.version, place.protocol, place.l4 = 6, ip[6], ETH_HLEN + 40
        whole = ETH_HLEN + 40 + <uint32_t>be16(ip + 4) == frame_len
    else:
        return False
    place.end = place.payload = frame_len
    place.candidate = False
    l4 = eth + place.l4
    if place.protocol == UDP:
        place.payload = place.l4 + 8
        if frame_len <= place.payload or be16(l4 + 4) != frame_len - place.l4:
            return True
        whole = whole and native16(vnet + VNET_CSUM_OFFSET) == UDP_CHECK
    elif place.protocol == TCP:
        if frame_len < place.l4 + 20:
            return True
        place.payload = place.l4 + (l4[12] >> 4) * 4
        if place.payload < place.l4 + 20 or frame_len <= place.payload:
            return True
        whole = whole and native16(vnet + VNET_CSUM_OFFSET) == TCP_CHECK and l4[TCP_FLAGS] | TCP_PSH == TCP_ACK | TCP_PSH
        whole = whole and be16(l4 + 18) == 0
    else:
        return False
    place.candidate = (
        whole and not eth[0] & 1 and vnet[VNET_FLAGS] == F_NEEDS_CSUM and vnet[VNET_GSO_TYPE] == 0
        and native16(vnet + VNET_CSUM_START) == place.l4
    )
    return True


cdef inline uint32_t flow_hash(const uint8_t *eth, const Place *place) noexcept nogil:
    """Hash the values that identify a flow; equal flows have equal hashes."""
    cdef const uint8_t *ip = eth + ETH_HLEN
    cdef uint32_t mixed = be32(eth + place.l4) * <uint32_t>0x9E3779B1  # the golden ratio's bits spread the ports
    cdef uint32_t source = 12 if place.version == 4 else 20  # for IPv6, the last words of both addresses
    cdef uint32_t target = 16 if place.version == 4 else 36
    return mixed ^ be32(ip + source) ^ (be32(ip + target) * <uint32_t>5) ^ <uint32_t>place.protocol


cdef inline bint same_flow(const uint8_t *one, const uint8_t *two, const Place *a, const Place *b) noexcept nogil:
    """Compare addresses, protocol and ports of two Ethernet frames."""
    cdef uint32_t addresses = ETH_HLEN + 12 if a.version == 4 else ETH_HLEN + 8
    return (
        a.version == b.version and a.protocol == b.protocol
        and memcmp(one + addresses, two + addresses, 8 if a.version == 4 else 32) == 0
        and memcmp(one + a.l4, two + b.l4, 4) == 0
    )


cdef inline bint joins(Batch *batch, const Entry *entry, const uint8_t *vnet, const Place *place) noexcept nogil:
    """Return whether a candidate of the entry's flow continues the super-frame."""
    cdef uint32_t vnet_hdr_len = batch.vnet_hdr_len
    cdef const uint8_t *head = entry.head.data + vnet_hdr_len
    cdef const uint8_t *eth = vnet + vnet_hdr_len
    cdef const uint8_t *ip = eth + ETH_HLEN
    cdef const uint8_t *head_ip = head + ETH_HLEN
    cdef uint32_t l4 = place.l4, size = place.end - place.payload
    cdef uint16_t check
    if size > entry.gso_size or entry.head.length - vnet_hdr_len + size > SUPER_MAX:
        return False
    if memcmp(head, eth, ETH_HLEN) or memcmp(entry.head.data + VNET_TAIL, vnet + VNET_TAIL, vnet_hdr_len - VNET_TAIL):
        return False
    if place.version == 4:
        if ip[1] != head_ip[1] or be16(ip + 6) != be16(head_ip + 6) or ip[8] != head_ip[8]:
            return False
        if be16(ip + 4) != <uint16_t>(be16(head_ip + 4) + entry.count):
            return False
    elif memcmp(ip, head_ip, 4) or ip[7] != head_ip[7]:
        return False
    if place.protocol == TCP:
        if place.payload != entry.place.payload or be32(eth + l4 + 4) != entry.next_seq:
            return False
        if memcmp(eth + l4 + 8, head + l4 + 8, 5) or be16(eth + l4 + 14) != be16(head + l4 + 14):
            return False  # acknowledgement and data offset; window
        if memcmp(eth + l4 + 20, head + l4 + 20, place.payload - l4 - 20):
            return False
        check = be16(eth + l4 + TCP_CHECK)
    else:
        if entry.count >= UDP_SEGMENTS:
            return False
        check = be16(eth + l4 + UDP_CHECK)
    if size == entry.gso_size:
        return check == entry.check
    return check == moved(entry.check, entry.place.end - l4, place.end - l4)


cdef inline void gro_close(Batch *batch, Entry *entry) noexcept nogil:
    """Close an entry: no more frames may join it. If frames have joined, set the headers of a super-frame."""
    cdef uint8_t *vnet = entry.head.data
    cdef uint8_t *ip = vnet + batch.vnet_hdr_len + ETH_HLEN
    cdef uint8_t *l4 = vnet + batch.vnet_hdr_len + entry.place.l4
    cdef uint32_t length = entry.head.length - batch.vnet_hdr_len - entry.place.l4
    cdef uint16_t check = moved(entry.check, entry.place.end - entry.place.l4, length)
    entry.open = False
    if entry.count < 2:
        return
    put_native16(vnet + VNET_HDR_LEN, <uint16_t>entry.place.payload)
    put_native16(vnet + VNET_GSO_SIZE, <uint16_t>entry.gso_size)
    if entry.place.version == 4:
        put_be16(ip + 2, <uint16_t>(length + 20))
        put_be16(ip + 10, ip_checksum(ip))
    else:
        put_be16(ip + 4, <uint16_t>length)
    if entry.place.protocol == UDP:
        vnet[VNET_GSO_TYPE] = GSO_UDP_L4
        put_be16(l4 + 4, <uint16_t>length)
        put_be16(l4 + UDP_CHECK, check)
    else:
        vnet[VNET_GSO_TYPE] = GSO_TCPV4 if entry.place.version == 4 else GSO_TCPV6
        l4[TCP_FLAGS] |= entry.last_flags & TCP_PSH
        put_be16(l4 + TCP_CHECK, check)


cdef inline Entry *gro_place(Batch *batch) noexcept nogil:
    """Return a free entry; if there is none, close the entry that was opened first and return it."""
    cdef Entry *found = &batch.flows[0]
    cdef uint32_t i
    for i in range(batch.entries):
        if not batch.flows[i].open:
            return &batch.flows[i]
        if batch.flows[i].opened < found.opened:
            found = &batch.flows[i]
    if batch.entries < FLOWS:
        batch.entries += 1
        return &batch.flows[batch.entries - 1]
    gro_close(batch, found)
    return found


cdef inline void gro_begin(Batch *batch, uint32_t vnet_hdr_len, bint udp) noexcept nogil:
    """Begin a batch; udp: datagrams may coalesce, too."""
    batch.vnet_hdr_len, batch.udp, batch.entries, batch.opened = vnet_hdr_len, udp, 0, 0


cdef inline void gro_end(Batch *batch) noexcept nogil:
    """Close all open entries, at a barrier or at the batch's end."""
    cdef uint32_t i
    for i in range(batch.entries):
        if batch.flows[i].open:
            gro_close(batch, &batch.flows[i])
    batch.entries = 0


cdef inline bint gro_offer(Batch *batch, Buffer *buffer) noexcept nogil:
    """Offer the next frame of the batch: True if a super-frame took its bytes, so that its buffer is free again."""
    cdef uint32_t vnet_hdr_len = batch.vnet_hdr_len, i, hashed, size
    cdef uint8_t *eth = buffer.data + vnet_hdr_len
    cdef uint8_t flags = 0
    cdef Entry *entry
    cdef Place place
    if not find_place(buffer.data, vnet_hdr_len, buffer.length - vnet_hdr_len, &place):
        gro_end(batch)  # it may belong to any flow: no frame may overtake it
        return False
    if place.protocol == UDP and not batch.udp:
        place.candidate = False
    hashed = flow_hash(eth, &place)
    size = place.end - place.payload
    if place.protocol == TCP and place.candidate:
        flags = eth[place.l4 + TCP_FLAGS]
    for i in range(batch.entries):
        entry = &batch.flows[i]
        if not entry.open or entry.hash != hashed:
            continue
        if not same_flow(eth, entry.head.data + vnet_hdr_len, &place, &entry.place):
            continue
        if place.candidate and joins(batch, entry, buffer.data, &place):
            memcpy(entry.head.data + entry.head.length, eth + place.payload, size)
            entry.head.length += size
            entry.head.frames += 1
            entry.head.frame_bytes += place.end
            entry.count += 1
            entry.next_seq += size
            entry.last_flags = flags
            if size < entry.gso_size or flags & TCP_PSH:
                gro_close(batch, entry)
            return True
        gro_close(batch, entry)
        break
    if place.candidate and not flags & TCP_PSH:
        entry = gro_place(batch)
        batch.opened += 1
        entry.head, entry.place, entry.hash, entry.open, entry.opened = buffer, place, hashed, True, batch.opened
        entry.count, entry.gso_size, entry.last_flags = 1, size, flags
        entry.next_seq = be32(eth + place.l4 + 4) + size
        entry.check = be16(eth + place.l4 + (TCP_CHECK if place.protocol == TCP else UDP_CHECK))
    return False
