"""One direction of one queue in the native engine: what it may do, what it counted, and the lock that guards both.

Theory of operation. A Worker's thread and the loop's thread share lanes, buffers and counters, and every word of them is
written under the worker's one mutex. The worker holds it for a round (64 frames or 256 KB, and as much of urgent lanes) and
releases it between rounds and while it sleeps. Whoever holds it reads a lane's frames, judges them and writes them, so nothing is in flight when it is
released, and either thread may move a lane's frames (turn()). A pthread mutex is not fair, and a worker at full speed would
take it again before a waiter is awake: so every thread queues at a second mutex first (take_turn()), behind which at most
one waits at a time.
"""

from libc.errno cimport EBADF, EFAULT, EINVAL, EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.unistd cimport read, write

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

cdef enum:
    EBADFD = 77
    BATCH = 64  # frames read in a turn, at most
    TURN_BYTES = 256 << 10  # four super-frames
    FRAME_MAX = 24 + 14 + 4 + 65535  # vnet header, Ethernet header, VLAN tag, the longest IP packet
    STRIDE = 68 << 10  # FRAME_MAX in whole pages
    DRAIN_FRAMES = 1024  # what dry() reads at most: a default ring of 1,000 frames
    STALE_FRAMES = 1 << 16  # engine.STALE_FRAMES
    ERRNOS = 32  # kinds of write errors told apart, more than a write answers; the last one's place takes all further ones

cdef enum State:
    PARKED  # not read: not begun, or its device is gone
    ACTIVE  # read in every round
    ARMED  # dry: epoll watches its fd
    CLOSED


cdef struct Lane:
    int src, dst
    uint64_t tag  # the owner's name for it
    State state
    bint dead, trust, gro, gro_udp
    bint urgent  # read before the lanes that are not
    int gate  # FORWARD: open; else the Drop of every frame
    uint32_t vnet_hdr_len, limit
    uint32_t depth  # how many frames the next turn reads at most
    int64_t last_ns  # when it last had a frame
    int64_t window_ns, window_bytes  # when the running millisecond began, and what was read in it
    bint bulk  # that one or the last had more than BULK_BYTES
    Lane *back  # the lane of the same queue the other way, NULL where there is none
    Lane *previous  # the circle of active lanes: the urgent ones have one of their own
    Lane *next
    Lane *next_dead
    uint64_t frames, forwarded
    int64_t frame_bytes, forwarded_bytes  # a read shorter than the vnet header counts below zero
    uint64_t drops[DROPS]
    int error_codes[ERRNOS]
    uint64_t error_frames[ERRNOS]


cdef struct Worker:
    pthread_mutex_t queue, data
    int epoll_fd, kick_fd, news_fd  # kick_fd wakes the worker, news_fd the loop
    bint stopping
    int64_t spin_ns, no_spin_until_ns, now_ns
    int64_t moderation_ns, pause_ns  # how long a pause may be, and how long the next one is
    int64_t window_ns, window_bytes  # as a lane's, of all lanes
    bint bulk
    uint64_t rounds, pauses
    uint8_t *memory
    Buffer buffers[BATCH]
    Lane *active  # the next one to be read, in a circle
    Lane *urgent  # as active, of the lanes that are read first
    Lane *dead


cdef inline void take_turn(Worker *worker) noexcept nogil:
    """Lock the worker's data; at most one other goes first."""
    pthread_mutex_lock(&worker.queue)
    pthread_mutex_lock(&worker.data)
    pthread_mutex_unlock(&worker.queue)


cdef inline void give_turn(Worker *worker) noexcept nogil:
    """Unlock it."""
    pthread_mutex_unlock(&worker.data)


cdef inline void wake(int eventfd) noexcept nogil:
    """Make an eventfd readable; it may be so already."""
    cdef uint64_t one = 1
    write(eventfd, &one, sizeof(one))


cdef inline bint fatal(int64_t got) noexcept nogil:
    """Return whether a read's result says that the device is gone (EFAULT: tun_ring_recv(), of one that is just going)."""
    return got == -EBADFD or got == -EBADF or got == -EFAULT


cdef inline Lane **circle_of(Worker *worker, Lane *lane) noexcept nogil:
    """Return the circle in which a lane is while it is active."""
    return &worker.urgent if lane.urgent else &worker.active


cdef inline void activate(Worker *worker, Lane *lane) noexcept nogil:
    """Read a lane from the next round on, behind all others of its circle."""
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
    """Read a lane no more; state says why."""
    cdef Lane **circle = circle_of(worker, lane)
    if lane.state == ACTIVE:
        lane.previous.next = lane.next
        lane.next.previous = lane.previous
        if circle[0] == lane:
            circle[0] = lane.next if lane.next != lane else NULL
        lane.next = lane.previous = NULL
    lane.state = state


cdef inline void arm(Worker *worker, Lane *lane) noexcept nogil:
    """Have the next frame of an active lane wake the worker."""
    watch(worker.epoll_fd, EPOLL_CTL_MOD, lane.src, EPOLLIN | EPOLLONESHOT, lane)
    rest(worker, lane, ARMED)


cdef inline void bury(Worker *worker, Lane *lane) noexcept nogil:
    """Stop reading a lane whose device is gone, and tell the loop, once."""
    rest(worker, lane, PARKED)
    if not lane.dead:
        lane.dead = True
        lane.next_dead = worker.dead
        worker.dead = lane
        wake(worker.news_fd)


cdef inline void untie(Lane *lane) noexcept nogil:
    """Let a lane and the one the other way know nothing of each other."""
    if lane.back != NULL:
        lane.back.back = NULL
        lane.back = NULL


cdef inline void shut(Worker *worker, Lane *lane) noexcept nogil:
    """Close a lane: nothing of the worker's refers to it any more."""
    cdef Lane **at = &worker.dead
    if lane.state != CLOSED:
        watch(worker.epoll_fd, EPOLL_CTL_DEL, lane.src, 0, NULL)
    rest(worker, lane, CLOSED)
    untie(lane)
    while at[0] != NULL:
        if at[0] == lane:
            at[0] = lane.next_dead
            return
        at = &at[0].next_dead


cdef inline bint admit(Lane *lane, Buffer *buffer, uint32_t got) noexcept nogil:
    """Count a frame that was read, and judge it; return whether it is to be forwarded."""
    cdef int drop = lane.gate
    lane.frames += 1
    lane.frame_bytes += <int64_t>got - lane.vnet_hdr_len
    if drop == FORWARD:
        drop = verdict(buffer.data, got, lane.vnet_hdr_len, lane.limit, lane.trust)
    if drop != FORWARD:
        lane.drops[drop] += 1
        return False
    buffer.length = got
    buffer.frames = 1
    buffer.frame_bytes = got - lane.vnet_hdr_len
    return True


cdef inline void settle(Lane *lane, Buffer *buffer, int64_t written) noexcept nogil:
    """Count what became of a write: all of its frames were forwarded, or dropped for what the errno says."""
    cdef int i
    if written >= 0:
        lane.forwarded += buffer.frames
        lane.forwarded_bytes += buffer.frame_bytes
    elif written == -EIO:
        lane.drops[PEER_DOWN] += buffer.frames  # tun_get_user(): the device is not IFF_UP
    elif written == -EINVAL:
        lane.drops[BAD_VNET_HEADER] += buffer.frames  # the kernel's own opinion of the header
    elif fatal(written):
        lane.drops[NO_PEER] += buffer.frames
    else:
        lane.drops[WRITE_ERROR] += buffer.frames
        for i in range(ERRNOS):
            if lane.error_codes[i] in (0, -written) or i == ERRNOS - 1:
                lane.error_codes[i] = <int>-written
                lane.error_frames[i] += buffer.frames
                break


cdef struct Moved:  # what a lane's turn came to
    uint32_t frames
    uint64_t bytes
    bint dry  # nothing was left
    bint gone  # neither was the device


cdef inline Moved move(Worker *worker, Lane *lane, uint32_t most) noexcept nogil:
    """Read up to most frames of a lane, judge and coalesce them, and write what goes on. most is at most BATCH."""
    cdef uint32_t[BATCH] kept
    cdef uint32_t keeps = 0, i
    cdef bint gro = lane.gro and most > 1
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
        if admit(lane, buffer, <uint32_t>result) and not (gro and gro_offer(&batch, buffer)):
            kept[keeps] = moved.frames
            keeps += 1
        moved.frames += 1
        moved.bytes += <uint64_t>result
    if gro:
        gro_end(&batch)
    for i in range(keeps):
        buffer = &worker.buffers[kept[i]]
        result = write(lane.dst, buffer.data, buffer.length)
        settle(lane, buffer, -errno if result < 0 else result)
    return moved


cdef inline bint drain(Worker *worker, Lane *lane, uint32_t frames) noexcept nogil:
    """Move what waits in a lane, up to so many frames; return whether it is dry. From whatever thread holds the lock."""
    cdef Moved moved
    while frames:
        moved = move(worker, lane, min(frames, <uint32_t>BATCH))
        frames -= moved.frames
        if moved.gone:
            bury(worker, lane)
        if moved.dry:
            return True
    return False
