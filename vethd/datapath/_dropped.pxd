"""The last frames that a lane dropped: why, and their first bytes.

Theory of operation. A lane's ring is allocated at its first drop and grows to DROPPED_MAX records, then the oldest is
overwritten. It belongs to the lane and is guarded by the worker's lock. remember() is called only where a drop is
counted, so a lane that drops nothing pays nothing.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cdef extern from *:
    """
    #include <stdint.h>
    /* The number of the next dropped frame, of all lanes: the order of drops. */
    static inline uint64_t next_number(void) {
        static uint64_t last;
        return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    }
    """
    uint64_t next_number() noexcept nogil

cdef enum:
    DROPPED_MAX = 64  # engine.DROPPED_MAX
    DROPPED_FIRST = 4
    DROPPED_HEAD = 128  # engine.DROPPED_HEAD
    HEAD_MAX = 24 + DROPPED_HEAD  # with the longest vnet header


cdef struct Dropped:
    uint64_t number
    int64_t time_ns  # since the epoch
    int reason, error
    uint32_t frames, length, limit, head_length  # length: with the virtio_net_hdr
    uint8_t[HEAD_MAX] head


cdef struct Ring:
    Dropped *records
    uint32_t room
    uint64_t count  # all that were remembered; the last `room` of them are there


cdef inline void remember(
    Ring *ring, int reason, int error, uint32_t frames, const uint8_t *data, uint32_t length, uint32_t limit
) noexcept nogil:
    """Add a dropped frame (frames: the number of frames that were coalesced to it). Without memory, do nothing."""
    cdef Dropped *record
    cdef timespec now
    cdef uint32_t room
    if ring.count == ring.room and ring.room < DROPPED_MAX:
        room = 2 * ring.room if ring.room else DROPPED_FIRST
        record = <Dropped *>realloc(ring.records, room * sizeof(Dropped))
        if record == NULL:
            return
        ring.records, ring.room = record, room
    record = &ring.records[ring.count % ring.room]
    ring.count += 1
    clock_gettime(CLOCK_REALTIME, &now)
    record.number = next_number()
    record.time_ns = <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec
    record.reason, record.error, record.frames = reason, error, frames
    record.length, record.limit = length, limit
    record.head_length = min(length, <uint32_t>HEAD_MAX)
    memcpy(record.head, data, record.head_length)
