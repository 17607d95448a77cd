"""One direction of one queue in the native engine: what it may do, what it counted, and the lock that guards both.

Theory of operation. A Worker's thread and the loop's thread share lanes, buffers and counters, and every word of them is
written under the worker's one mutex. The worker holds it for a round (some 64 frames) and lets it go between rounds and
while it waits in the kernel. A pthread mutex is not fair, and a worker at full speed would take it again before anybody wakes: so whoever wants it queues
at a second mutex first (take_turn()), behind which at most one waits at a time.
"""

from libc.errno cimport EBADF, EFAULT, EINVAL, EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.unistd cimport read, write

from vethd.datapath._frame cimport (
    BAD_VNET_HEADER, DROPS, FORWARD, NO_PEER, PEER_DOWN, WRITE_ERROR, verdict,
)
from vethd.datapath._gro cimport Buffer
from vethd.datapath._ring cimport Ring

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t *sem, int pshared, unsigned int value)
    int sem_destroy(sem_t *sem)
    int sem_post(sem_t *sem)
    int sem_wait(sem_t *sem)

cdef enum:
    EBADFD = 77
    BATCH = 64  # frames read in a round, at most
    BUFFERS = 2 * BATCH  # one round's reads, and the writes that they became
    FRAME_MAX = 24 + 14 + 4 + 65535  # vnet header, Ethernet header, VLAN tag, the longest IP packet
    STRIDE = 68 << 10  # FRAME_MAX in whole pages
    DRAIN_FRAMES = 1024  # what dry() reads at most: a default ring of 1,000 frames
    STALE_FRAMES = 1 << 16  # engine.STALE_FRAMES
    ERRNOS = 32  # kinds of write errors told apart, more than a write answers; the last one's place takes all further ones

cdef enum State:
    PARKED  # not read: not begun, or its device is gone
    ACTIVE  # read in every round
    ARMED  # dry: the ring polls its fd
    CLOSING  # the ring polls its fd still, and shall not
    CLOSED


cdef struct Lane:
    int src, dst
    uint64_t tag  # the owner's name for it
    State state
    bint dead, trust, gro, gro_udp
    int gate  # FORWARD: open; else the Drop of every frame
    uint32_t vnet_hdr_len, limit
    uint32_t depth  # how many reads the next round asks for
    int64_t last_ns  # when it last had a frame
    Lane *previous  # the circle of active lanes, of armed ones, or of those that are closing
    Lane *next
    Lane *next_dead
    sem_t closed
    uint64_t frames, forwarded, in_flight
    int64_t frame_bytes, forwarded_bytes  # a read shorter than the vnet header counts below zero
    uint64_t drops[DROPS]
    int error_codes[ERRNOS]
    uint64_t error_frames[ERRNOS]


cdef struct Worker:
    pthread_mutex_t queue, data
    Ring ring
    sem_t started
    int error, kick_fd, news_fd  # kick_fd wakes the worker, news_fd the loop
    bint stopping, kick_armed
    bint plain  # reads and writes are system calls of their own; the ring is for polls
    bint cancels_due  # of every lane that is closing
    int64_t spin_ns, no_spin_until_ns, now_ns
    int64_t window_ns, window_bytes  # when the running millisecond began, and what was read in it
    bint bulk  # this one or the last had more than BULK_BYTES
    uint64_t rounds
    uint8_t *memory
    Buffer buffers[BUFFERS]
    uint32_t free[BUFFERS]  # a stack: the buffer used last is the warmest
    uint32_t frees, pendings, outstanding
    uint32_t pending[BUFFERS]  # read and judged, written by the next round
    uint32_t refusals  # how often in a row the kernel took nothing
    uint64_t renewals  # how often the ring had to be made anew
    Lane *active  # the next one to be read, in a circle
    Lane *armed  # those whose fds the ring polls, in a circle
    Lane *closing  # armed ones whose owner waits, in a circle
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


cdef inline bint fatal(int got) noexcept nogil:
    """Tell whether a read's result says that the device is gone (EFAULT: tun_ring_recv(), of one that is just going)."""
    return got == -EBADFD or got == -EBADF or got == -EFAULT


cdef inline void link(Lane **circle, Lane *lane, State state) noexcept nogil:
    """Put a lane into a circle, behind all others."""
    lane.state = state
    if circle[0] == NULL:
        circle[0] = lane.next = lane.previous = lane
        return
    lane.next = circle[0]
    lane.previous = circle[0].previous
    lane.previous.next = lane.next.previous = lane


cdef inline void unlink(Lane **circle, Lane *lane, State state) noexcept nogil:
    """Take a lane out of its circle."""
    lane.previous.next = lane.next
    lane.next.previous = lane.previous
    if circle[0] == lane:
        circle[0] = lane.next if lane.next != lane else NULL
    lane.next = lane.previous = NULL
    lane.state = state


cdef inline void activate(Worker *worker, Lane *lane) noexcept nogil:
    """Read a lane from the next round on."""
    lane.depth = 1
    link(&worker.active, lane, ACTIVE)


cdef inline void bury(Worker *worker, Lane *lane) noexcept nogil:
    """Stop reading a lane whose device is gone, and tell the loop, once."""
    if lane.state == ACTIVE:
        unlink(&worker.active, lane, PARKED)
    if not lane.dead:
        lane.dead = True
        lane.next_dead = worker.dead
        worker.dead = lane
        wake(worker.news_fd)


cdef inline bint admit(Lane *lane, Buffer *buffer, int got) noexcept nogil:
    """Count a frame that was read, and judge it. True: it is in flight."""
    cdef int drop = lane.gate
    lane.frames += 1
    lane.frame_bytes += got - <int>lane.vnet_hdr_len
    if drop == FORWARD:
        drop = verdict(buffer.data, <uint32_t>got, lane.vnet_hdr_len, lane.limit, lane.trust)
    if drop != FORWARD:
        lane.drops[drop] += 1
        return False
    buffer.length = got
    buffer.frames = 1
    buffer.frame_bytes = got - lane.vnet_hdr_len
    buffer.lane = lane
    lane.in_flight += 1
    return True


cdef inline void settle(Buffer *buffer, int64_t written) noexcept nogil:
    """Count what became of a write: all of its frames were forwarded, or dropped for what the errno says."""
    cdef Lane *lane = <Lane *>buffer.lane
    cdef int i
    lane.in_flight -= buffer.frames
    if written >= 0:
        lane.forwarded += buffer.frames
        lane.forwarded_bytes += buffer.frame_bytes
    elif written == -EIO:
        lane.drops[PEER_DOWN] += buffer.frames  # tun_get_user(): the device is not IFF_UP
    elif written == -EINVAL:
        lane.drops[BAD_VNET_HEADER] += buffer.frames  # the kernel's own opinion of the header
    elif fatal(<int>written):
        lane.drops[NO_PEER] += buffer.frames
    else:
        lane.drops[WRITE_ERROR] += buffer.frames
        for i in range(ERRNOS):
            if lane.error_codes[i] in (0, -written) or i == ERRNOS - 1:
                lane.error_codes[i] = <int>-written
                lane.error_frames[i] += buffer.frames
                break


cdef inline void release(Worker *worker, uint32_t number) noexcept nogil:
    """Take a buffer back."""
    worker.buffers[number].lane = NULL
    worker.free[worker.frees] = number
    worker.frees += 1


cdef inline int read_buffer(Lane *lane, Buffer *buffer) noexcept nogil:
    """Read into a buffer, now; the length, or a negative errno."""
    cdef int64_t got = read(lane.src, buffer.data, FRAME_MAX)
    return -errno if got < 0 else <int>got


cdef inline void write_buffer(Worker *worker, uint32_t number) noexcept nogil:
    """Write a buffer, now, count what became of it, and take it back."""
    cdef Buffer *buffer = &worker.buffers[number]
    cdef int64_t written = write((<Lane *>buffer.lane).dst, buffer.data, buffer.length)
    settle(buffer, -errno if written < 0 else written)
    release(worker, number)


cdef inline void flush(Worker *worker, Lane *lane) noexcept nogil:
    """Write what is pending of a lane, now, from whatever thread holds the lock."""
    cdef uint32_t kept = 0, i, number
    for i in range(worker.pendings):
        number = worker.pending[i]
        if worker.buffers[number].lane != lane:
            worker.pending[kept] = number
            kept += 1
            continue
        write_buffer(worker, number)
    worker.pendings = kept


cdef inline bint drain(Worker *worker, Lane *lane, uint32_t frames) noexcept nogil:
    """Move what waits in a lane, up to so many frames; tell whether it is dry. From whatever thread holds the lock."""
    cdef Buffer *buffer
    cdef int64_t moved
    flush(worker, lane)
    buffer = &worker.buffers[worker.free[worker.frees - 1]]
    for _ in range(frames):
        moved = read_buffer(lane, buffer)
        if moved < 0:
            if fatal(<int>moved):
                bury(worker, lane)
            return True
        if admit(lane, buffer, <int>moved):
            moved = write(lane.dst, buffer.data, buffer.length)
            settle(buffer, -errno if moved < 0 else moved)
            buffer.lane = NULL
    return False
