"""One direction of one queue in the native engine: its settings, its counters, and the lock that guards both.

Theory of operation. A Worker's thread and the loop's thread share lanes, buffers and counters, and write every member
of them under the worker's one mutex. The worker holds the mutex for a round (64 frames or 256 KB, and as much again of
urgent lanes) and releases it between rounds and while it sleeps. The thread that holds it reads a lane's frames, judges
them and writes them, so no frame is in flight when the mutex is released, and either thread may move a lane's frames
(move()). A pthread mutex is not fair: a worker at full speed would take it again before a waiter is awake. So every
thread first locks a second mutex, the queue (take_turn()), in which at most one thread at a time waits for the data.
"""

from libc.errno cimport EBADF, EFAULT, EINVAL, EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.unistd cimport read, write

from vethd.datapath._capture cimport (
    DROPPED, FORWARDED_REASON, RECEIVED, SENT, Tap, note, publish, wall_ns,
)
from vethd.datapath._dropped cimport Ring, remember
from vethd.datapath._frame cimport (
    BAD_VNET_HEADER, DROPS, FORWARD, NO_PEER, PEER_DOWN, WRITE_ERROR, verdict,
)
from vethd.datapath._gro cimport Batch, Buffer, gro_begin, gro_end, gro_offer
from vethd.datapath._poll cimport EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, EPOLLONESHOT, watch

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef extern from "<errno.h>" nogil:
    int EBADFD

cdef extern from *:
    int leading_zeros "__builtin_clzll"(unsigned long long number) noexcept nogil

cdef enum:
    BATCH = 64  # the most frames that a turn reads
    TURN_BYTES = 256 << 10  # four super-frames
    FRAME_MAX = 24 + 14 + 4 + 65535  # vnet header, Ethernet header, VLAN tag, longest IP packet
    STRIDE = 68 << 10  # FRAME_MAX in whole pages
    DRAIN_FRAMES = 1024  # the most frames that dry() reads: a default ring of 1,000 frames
    STALE_FRAMES = 1 << 16  # engine.STALE_FRAMES
    WINDOW_NS = 1_000_000  # load is counted over a millisecond
    BUCKETS = 88  # model.latency
    ERRNOS = 32  # slots for distinct write errors, more than write() can return; the last slot takes all others

cdef enum State:
    PARKED  # not read: not started, or its device is gone
    ACTIVE  # read in every round
    ARMED  # dry: epoll watches its fd
    CLOSED


cdef struct Lane:
    int src, dst
    uint64_t tag  # identifies the lane to its owner
    State state
    bint dead, trust, gro, gro_udp
    bint urgent  # read before the lanes that are not
    int gate  # FORWARD: open; otherwise the Drop of every frame
    uint32_t vnet_hdr_len, limit
    uint32_t depth  # the most frames that the next turn reads
    int64_t last_ns  # the time of its last frame
    uint32_t window_frames  # read in the current millisecond
    bint window_dry  # the lane ran dry in the current millisecond
    int64_t window_ns, window_bytes  # the start of the current millisecond, and the bytes read in it
    bint bulk  # the current or the last millisecond had more than BULK_BYTES
    Lane *back  # the lane of the queue's other direction, NULL if there is none
    Lane *previous  # the circle of active lanes; urgent lanes have a circle of their own
    Lane *next
    Lane *next_dead
    uint64_t frames, forwarded
    int64_t frame_bytes, forwarded_bytes  # a read shorter than the vnet header adds a negative number
    uint64_t drops[DROPS]
    Ring dropped
    Tap *taps  # of captures
    uint64_t latency[BUCKETS]  # frames by the length of their turn
    uint64_t latency_ns
    int error_codes[ERRNOS]
    uint64_t error_frames[ERRNOS]


cdef struct Worker:
    pthread_mutex_t queue, data
    int epoll_fd, kick_fd, news_fd  # kick_fd wakes the worker, news_fd the loop
    bint stopping
    int64_t spin_ns, no_spin_until_ns, now_ns
    int64_t moderation_ns, pause_ns  # the longest pause, and the next one
    int64_t window_ns, window_bytes  # like a lane's, for all lanes
    bint bulk
    int64_t overload_ns, back_ns  # when a lane was last overloaded, and the pause after each round (_overload.pxd)
    int64_t cpu_ns, paused_ns  # the thread's CPU time at the start of the current millisecond, and its pauses in it
    uint64_t rounds, pauses
    uint8_t *memory
    Buffer buffers[BATCH]
    Lane *active  # the next lane to read, in a circle
    Lane *urgent  # like active, for the lanes that are read first
    Lane *dead


cdef inline void take_turn(Worker *worker) noexcept nogil:
    """Lock the worker's data; at most one other thread gets the lock first."""
    pthread_mutex_lock(&worker.queue)
    pthread_mutex_lock(&worker.data)
    pthread_mutex_unlock(&worker.queue)


cdef inline void give_turn(Worker *worker) noexcept nogil:
    """Unlock the worker's data."""
    pthread_mutex_unlock(&worker.data)


cdef inline void wake(int eventfd) noexcept nogil:
    """Make an eventfd readable; it may already be readable."""
    cdef uint64_t one = 1
    write(eventfd, &one, sizeof(one))


cdef inline int latency_bucket(uint64_t ns) noexcept nogil:
    """See model.latency.bucket()."""
    cdef int octave = 63 - leading_zeros(ns | 1) - 8
    if octave < 0:
        return 0
    if octave >= BUCKETS // 4:
        return BUCKETS - 1
    return octave * 4 + <int>(ns >> (octave + 6) & 3)


cdef inline bint fatal(int64_t got) noexcept nogil:
    """Return whether a result means that the device is gone (EFAULT: tun_ring_recv(), while it is being deleted)."""
    return got == -EBADFD or got == -EBADF or got == -EFAULT


cdef inline Lane **circle_of(Worker *worker, Lane *lane) noexcept nogil:
    """Return the circle in which a lane is while it is active."""
    return &worker.urgent if lane.urgent else &worker.active


cdef inline void activate(Worker *worker, Lane *lane) noexcept nogil:
    """Read a lane from the next round on, after all other lanes of its circle."""
    cdef Lane **circle = circle_of(worker, lane)
    lane.depth = 1
    lane.state = ACTIVE
    if circle[0] == NULL:
        circle[0] = lane.next = lane.previous = lane
        return
    lane.next = circle[0]
    lane.previous = circle[0].previous
    lane.previous.next = lane.next.previous = lane


cdef inline void rest(Worker *worker, Lane *lane, State state) noexcept nogil:
    """Stop reading a lane, and set its state."""
    cdef Lane **circle = circle_of(worker, lane)
    if lane.state == ACTIVE:
        lane.previous.next = lane.next
        lane.next.previous = lane.previous
        if circle[0] == lane:
            circle[0] = lane.next if lane.next != lane else NULL
        lane.next = lane.previous = NULL
    lane.state = state


cdef inline void arm(Worker *worker, Lane *lane) noexcept nogil:
    """Stop reading an active lane until its next frame, which wakes the worker."""
    watch(worker.epoll_fd, EPOLL_CTL_MOD, lane.src, EPOLLIN | EPOLLONESHOT, lane)
    rest(worker, lane, ARMED)


cdef inline void bury(Worker *worker, Lane *lane) noexcept nogil:
    """Stop reading a lane whose device is gone, and report it to the loop, once."""
    rest(worker, lane, PARKED)
    if not lane.dead:
        lane.dead = True
        lane.next_dead = worker.dead
        worker.dead = lane
        wake(worker.news_fd)


cdef inline void untie(Lane *lane) noexcept nogil:
    """Delete the references between a lane and the lane of the other direction."""
    if lane.back != NULL:
        lane.back.back = NULL
        lane.back = NULL


cdef inline void shut(Worker *worker, Lane *lane) noexcept nogil:
    """Close a lane: the worker has no reference to it afterwards."""
    cdef Lane **at = &worker.dead
    if lane.state != CLOSED:
        watch(worker.epoll_fd, EPOLL_CTL_DEL, lane.src, 0, NULL)
    rest(worker, lane, CLOSED)
    untie(lane)
    lane.taps = NULL
    while at[0] != NULL:
        if at[0] == lane:
            at[0] = lane.next_dead
            return
        at = &at[0].next_dead


cdef inline int admit(Lane *lane, Buffer *buffer, uint32_t got) noexcept nogil:
    """Count and judge a frame that was read; return FORWARD or why it was dropped."""
    cdef int drop = lane.gate
    lane.frames += 1
    buffer.number = lane.frames
    lane.frame_bytes += <int64_t>got - lane.vnet_hdr_len
    if drop == FORWARD:
        drop = verdict(buffer.data, got, lane.vnet_hdr_len, lane.limit, lane.trust)
    if drop != FORWARD:
        lane.drops[drop] += 1
        remember(&lane.dropped, drop, 0, 1, buffer.data, got, lane.limit)
        return drop
    buffer.length = got
    buffer.frames = 1
    buffer.frame_bytes = got - lane.vnet_hdr_len
    return FORWARD


cdef inline int settle(Lane *lane, Buffer *buffer, int64_t written) noexcept nogil:
    """Count the frames of a write: all forwarded (FORWARD), or all dropped for the reason that its errno means."""
    cdef int drop, i
    if written >= 0:
        lane.forwarded += buffer.frames
        lane.forwarded_bytes += buffer.frame_bytes
        return FORWARD
    if written == -EIO:
        drop = PEER_DOWN  # tun_get_user(): the device is not IFF_UP
    elif written == -EINVAL:
        drop = BAD_VNET_HEADER  # the kernel refuses the header
    elif fatal(written):
        drop = NO_PEER
    else:
        drop = WRITE_ERROR
    lane.drops[drop] += buffer.frames
    remember(&lane.dropped, drop, <int>-written, buffer.frames, buffer.data, buffer.length, lane.limit)
    if drop == WRITE_ERROR:
        for i in range(ERRNOS):
            if lane.error_codes[i] in (0, -written) or i == ERRNOS - 1:
                lane.error_codes[i] = <int>-written
                lane.error_frames[i] += buffer.frames
                break
    return drop


cdef inline void tell(
    Lane *lane, Buffer *buffer, uint32_t length, int kind, int drop, int error, uint32_t frames, int64_t time_ns
) noexcept nogil:
    """Offer a frame to the captures of its lane: as it was read (SENT) or written (RECEIVED), or why it was dropped."""
    cdef Tap *tap = lane.taps
    cdef int reason = FORWARDED_REASON if drop == FORWARD else drop
    if drop != FORWARD:
        kind = DROPPED
    while tap != NULL:
        note(tap, kind, reason, error, frames, buffer.data, length, lane.vnet_hdr_len, lane.limit, time_ns, buffer.number)
        tap = tap.next


cdef inline void show(Lane *lane) noexcept nogil:
    """Publish what a turn has told the captures of its lane."""
    cdef Tap *tap = lane.taps
    while tap != NULL:
        publish(tap)
        tap = tap.next


cdef struct Moved:  # the result of a lane's turn
    uint32_t frames
    uint64_t bytes
    bint dry  # no frame was left
    bint gone  # the device is gone


cdef inline Moved move(Worker *worker, Lane *lane, uint32_t most) noexcept nogil:
    """Read up to most frames of a lane, judge and coalesce them, and write the rest. most is at most BATCH."""
    cdef uint32_t[BATCH] kept
    cdef uint32_t keeps = 0, i
    cdef bint gro = lane.gro and most > 1
    cdef bint tapped = lane.taps != NULL
    cdef int64_t time_ns = wall_ns() if tapped else 0
    cdef int drop
    cdef Buffer *buffer
    cdef Batch batch
    cdef int64_t result
    cdef Moved moved
    moved.frames, moved.bytes, moved.dry, moved.gone = 0, 0, False, False
    if gro:
        gro_begin(&batch, lane.vnet_hdr_len, lane.gro_udp)
    while moved.frames < most:
        buffer = &worker.buffers[moved.frames]
        result = read(lane.src, buffer.data, FRAME_MAX)
        if result < 0:
            moved.dry, moved.gone = True, fatal(-errno)
            break
        drop = admit(lane, buffer, <uint32_t>result)
        if tapped:
            tell(lane, buffer, <uint32_t>result, SENT, drop, 0, 1, time_ns)
        if drop == FORWARD and not (gro and gro_offer(&batch, buffer)):
            kept[keeps] = moved.frames
            keeps += 1
        moved.frames += 1
        moved.bytes += <uint64_t>result
    if gro:
        gro_end(&batch)
    for i in range(keeps):
        buffer = &worker.buffers[kept[i]]
        result = write(lane.dst, buffer.data, buffer.length)
        if result < 0:
            result = -errno
        drop = settle(lane, buffer, result)
        if tapped:
            tell(lane, buffer, buffer.length, RECEIVED, drop, <int>-min(result, 0), buffer.frames, wall_ns())
    if tapped:
        show(lane)
    return moved


cdef inline bint drain(Worker *worker, Lane *lane, uint32_t frames) noexcept nogil:
    """Move the waiting frames of a lane, at most frames; return whether none is left. The caller holds the lock."""
    cdef Moved moved
    while frames:
        moved = move(worker, lane, min(frames, <uint32_t>BATCH))
        frames -= moved.frames
        if moved.gone:
            bury(worker, lane)
        if moved.dry:
            return True
    return False
