"""Captures in the native engine: frames of a lane are filtered and copied into a ring in shared memory.

Theory of operation. The memory belongs to a capture's session; model.capture has its layout, and reads it. Each tap is
one lane's own ring, so it has one writer, which holds the worker's lock, and one reader in another process. The reader
is not trusted: `tail` is the only value that is read from the memory, and a wrong one makes the ring appear full. A
record that does not fit is counted and not written; nothing ever waits for the reader. Records become visible at the
end of a turn (publish()), which also wakes a reader that said that it sleeps.

Filters are classic BPF, checked by model.cbpf before they come here.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport write

from vethd.datapath._frame cimport be16, be32

cdef extern from *:
    """
    #define vethd_load(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
    #define vethd_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
    #define vethd_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    uint64_t load "vethd_load"(uint64_t *at) noexcept nogil
    void store "vethd_store"(uint64_t *at, uint64_t value) noexcept nogil
    uint32_t load32 "vethd_load"(uint32_t *at) noexcept nogil
    void store32 "vethd_store"(uint32_t *at, uint32_t value) noexcept nogil
    void fence "vethd_fence"() noexcept nogil

cdef enum:  # model.capture
    RING_HEADER = 4096
    PAD = 0
    SENT = 1
    DROPPED = 2
    RECEIVED = 4
    FORWARDED_REASON = 255
    VNET_KEPT = 12

cdef enum:  # linux/bpf_common.h
    BPF_LD, BPF_LDX, BPF_ST, BPF_STX, BPF_ALU, BPF_JMP, BPF_RET, BPF_MISC
    BPF_W = 0x00
    BPF_H = 0x08
    BPF_B = 0x10
    BPF_IMM = 0x00
    BPF_ABS = 0x20
    BPF_IND = 0x40
    BPF_MEM = 0x60
    BPF_LEN = 0x80
    BPF_MSH = 0xA0
    BPF_X = 0x08
    BPF_A = 0x10
    BPF_TXA = 0x80


cdef struct Instruction:  # struct sock_filter
    uint16_t code
    uint8_t jt, jf
    uint32_t k


cdef struct Shared:  # the start of the ring; the data begins at RING_HEADER
    uint64_t head, tail, seen, matched, lost
    uint32_t sleeping


cdef struct Record:
    uint32_t size
    uint8_t kind, reason, queue, unused
    int64_t time_ns
    uint64_t number
    uint32_t caplen, length, limit
    int error
    uint32_t frames, unused2
    uint64_t lost
    uint8_t[VNET_KEPT] vnet
    uint32_t unused3


cdef struct Tap:
    Shared *shared
    uint8_t *data
    uint64_t room  # bytes, a power of 2
    uint64_t head, published, seen, matched, lost
    uint32_t snaplen
    int kinds  # SENT | DROPPED | RECEIVED
    uint8_t queue
    int event_fd
    Instruction *program
    uint32_t instructions
    Tap *next


cdef inline int64_t wall_ns() noexcept nogil:
    """Return the time, in nanoseconds since the epoch."""
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline uint32_t alu(uint16_t code, uint32_t a, uint32_t b) noexcept nogil:
    """Return the result of an arithmetic instruction; the caller has excluded a division by 0."""
    cdef int operation = code & 0xF0
    if operation == 0x00:
        return a + b
    if operation == 0x10:
        return a - b
    if operation == 0x20:
        return a * b
    if operation == 0x30:
        return a // b
    if operation == 0x40:
        return a | b
    if operation == 0x50:
        return a & b
    if operation == 0x60:
        return a << (b & 31)
    if operation == 0x70:
        return a >> (b & 31)
    if operation == 0x80:
        return <uint32_t>-<int64_t>a
    if operation == 0x90:
        return a % b
    return a ^ b


cdef inline bint jumps(uint16_t code, uint32_t a, uint32_t b) noexcept nogil:
    """Return whether a conditional jump's condition holds."""
    cdef int operation = code & 0xF0
    if operation == 0x10:
        return a == b
    if operation == 0x20:
        return a > b
    if operation == 0x30:
        return a >= b
    return (a & b) != 0


cdef inline uint32_t run_filter(
    const Instruction *program, uint32_t instructions, const uint8_t *frame, uint32_t length
) noexcept nogil:
    """Return what a checked filter returns for a frame, Ethernet header first: 0 refuses it."""
    cdef uint32_t a = 0, x = 0, at = 0, operand
    cdef uint64_t offset
    cdef uint32_t[16] memory
    cdef Instruction now
    cdef int mode, width
    memory[:] = [0] * 16
    while at < instructions:
        now = program[at]
        at += 1
        operand = x if now.code & BPF_X else now.k
        mode = now.code & 0xE0
        if now.code & 7 == BPF_LD:
            if mode == BPF_IMM:
                a = now.k
            elif mode == BPF_MEM:
                a = memory[now.k & 15]
            elif mode == BPF_LEN:
                a = length
            else:
                offset = <uint64_t>now.k + (x if mode == BPF_IND else 0)
                width = 4 if now.code & 0x18 == BPF_W else 2 if now.code & 0x18 == BPF_H else 1
                if offset + width > length:
                    return 0
                a = be32(frame + offset) if width == 4 else be16(frame + offset) if width == 2 else frame[offset]
        elif now.code & 7 == BPF_LDX:
            if mode == BPF_IMM:
                x = now.k
            elif mode == BPF_MEM:
                x = memory[now.k & 15]
            elif mode == BPF_LEN:
                x = length
            else:
                if now.k >= length:
                    return 0
                x = (frame[now.k] & 0xF) * 4
        elif now.code & 7 == BPF_ST:
            memory[now.k & 15] = a
        elif now.code & 7 == BPF_STX:
            memory[now.k & 15] = x
        elif now.code & 7 == BPF_ALU:
            if operand == 0 and now.code & 0xF0 in (0x30, 0x90):
                return 0
            a = alu(now.code, a, operand)
        elif now.code & 7 == BPF_JMP:
            if now.code & 0xF0 == 0:
                at += now.k
            else:
                at += now.jt if jumps(now.code, a, operand) else now.jf
        elif now.code & 7 == BPF_RET:
            return a if now.code & 0x18 == BPF_A else now.k
        elif now.code & 0xF8 == BPF_TXA:
            a = x
        else:
            x = a
    return 0


cdef inline uint8_t *reserve(Tap *tap, uint32_t size) noexcept nogil:
    """Return the place of a record of size bytes, which must be a multiple of 8, or NULL if there is no room."""
    cdef uint64_t used = tap.head - load(&tap.shared.tail)
    cdef uint64_t at = tap.head & (tap.room - 1)
    cdef uint64_t pad = tap.room - at if at + size > tap.room else 0
    cdef Record *filler
    if used > tap.room or used + pad + size > tap.room:
        return NULL
    if pad:
        filler = <Record *>(tap.data + at)
        filler.size, filler.kind = <uint32_t>pad, PAD
        tap.head += pad
        at = 0
    tap.head += size
    return tap.data + at


cdef inline void note(
    Tap *tap, int kind, int reason, int error, uint32_t frames,
    const uint8_t *data, uint32_t length, uint32_t vnet_hdr_len, uint32_t limit, int64_t time_ns, uint64_t number,
) noexcept nogil:
    """Offer one frame to a tap: count it, and copy it if its filter accepts it and there is room."""
    cdef uint32_t frame_len = length - vnet_hdr_len if length > vnet_hdr_len else 0
    cdef uint32_t caplen
    cdef Record *record
    if not tap.kinds & kind:
        return
    tap.seen += 1
    if tap.instructions and not run_filter(tap.program, tap.instructions, data + vnet_hdr_len, frame_len):
        return
    tap.matched += 1
    caplen = min(frame_len, tap.snaplen)
    record = <Record *>reserve(tap, <uint32_t>(sizeof(Record) + ((caplen + 7) & ~<uint32_t>7)))
    if record == NULL:
        tap.lost += 1
        return
    record.size = <uint32_t>(sizeof(Record) + ((caplen + 7) & ~<uint32_t>7))
    record.kind, record.reason, record.queue = kind, reason, tap.queue
    record.time_ns, record.number = time_ns, number
    record.caplen, record.length, record.limit = caplen, frame_len, limit
    record.error, record.frames, record.lost = error, frames, tap.lost
    memcpy(record.vnet, data, min(min(length, vnet_hdr_len), <uint32_t>VNET_KEPT))
    memcpy(<uint8_t *>record + sizeof(Record), data + vnet_hdr_len, caplen)


cdef inline void publish(Tap *tap) noexcept nogil:
    """Show the reader what was written, and wake it if it sleeps."""
    cdef uint64_t one = 1
    if tap.seen == tap.shared.seen and tap.head == tap.published:
        return
    tap.shared.seen, tap.shared.matched, tap.shared.lost = tap.seen, tap.matched, tap.lost
    store(&tap.shared.head, tap.head)
    if tap.head == tap.published:
        return
    tap.published = tap.head
    fence()
    if load32(&tap.shared.sleeping):
        store32(&tap.shared.sleeping, 0)
        write(tap.event_fd, &one, sizeof(one))
