"""One direction of one queue in the native engine: its settings, its counters, and the lock that guards both.

Theory of operation. A Worker's thread and the loop's thread share lanes, buffers and counters, and write every word of them
under the worker's one mutex. The worker holds it for a round (some 64 frames) and releases it between rounds and while it
waits in the kernel. A pthread mutex is not fair: a worker at full speed would take it again before a waiting thread wakes. So
a thread first takes a second mutex (take_turn()); only the holder of the second mutex waits for the first, one at a time.
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
    BUFFERS = 2 * BATCH  # one round's reads, and the writes of the frames that the last round read
    FRAME_MAX = 24 + 14 + 4 + 65535  # vnet header, Ethernet header, VLAN tag, the longest IP packet
    STRIDE = 68 << 10  # FRAME_MAX in whole pages
    DRAIN_FRAMES = 1024  # the most frames that dry() reads: a default ring of 1,000 frames
    STALE_FRAMES = 1 << 16  # engine.STALE_FRAMES
    ERRNOS = 32  # write errnos that are counted separately, more than a write returns; the last place counts all others

cdef enum State:
    PARKED  # not read: not started, or its device is gone
    ACTIVE  # read in every round
    ARMED  # dry: the ring polls its fd
    CLOSING  # the ring still polls its fd, and the poll is being cancelled
    CLOSED


cdef struct Lane:
    int src, dst
    uint64_t tag  # the owner's identifier of the lane
    State state
    bint dead, trust, gro, gro_udp
    int gate  # FORWARD: open; otherwise the Drop of every frame
    uint32_t vnet_hdr_len, limit
    uint32_t depth  # number of reads in the next round
    int64_t last_ns  # when it last had a frame
    Lane *previous  # in the circle of active, armed or closing lanes
    Lane *next
    Lane *next_dead
    sem_t closed
    uint64_t frames, forwarded, in_flight
    int64_t frame_bytes, forwarded_bytes  # a read shorter than the vnet header adds a negative number
    uint64_t drops[DROPS]
    int error_codes[ERRNOS]
    uint64_t error_frames[ERRNOS]


cdef struct Worker:
    pthread_mutex_t queue, data
    Ring ring
    sem_t started
    int error, kick_fd, news_fd  # kick_fd wakes the worker, news_fd the loop
    bint stopping, kick_armed
    bint plain  # reads and writes are separate system calls; the ring only polls
    bint cancels_due  # the polls of all closing lanes are to be cancelled
    int64_t spin_ns, no_spin_until_ns, now_ns
    int64_t window_ns, window_bytes  # the start of the current millisecond, and the bytes read in it
    bint bulk  # the current or the last millisecond had more than BULK_BYTES
    uint64_t rounds
    uint8_t *memory
    Buffer buffers[BUFFERS]
    uint32_t free[BUFFERS]  # a stack: the buffer used last is most likely cached
    uint32_t frees, pendings, outstanding
    uint32_t pending[BUFFERS]  # frames read and accepted, which the next round writes
    uint32_t refusals  # how often in a row the kernel accepted no entry
    uint64_t renewals  # how often the ring was replaced
    Lane *active  # the next lane to read, in a circle
    Lane *armed  # lanes whose fds the ring polls, in a circle
    Lane *closing  # armed lanes whose owner waits, in a circle
    Lane *dead


cdef inline void take_turn(Worker *worker) noexcept nogil:
    """Lock the worker's data; at most one other thread goes first."""
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


cdef inline bint fatal(int got) noexcept nogil:
    """Return whether a read's result means that the device is gone (EFAULT: tun_ring_recv(), during the deletion)."""
    return got == -EBADFD or got == -EBADF or got == -EFAULT


cdef inline void link(Lane **circle, Lane *lane, State state) noexcept nogil:
    """Put a lane into a circle, after all others."""
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
    """Make a lane active: it is read from the next round on."""
    lane.depth = 1
    link(&worker.active, lane, ACTIVE)


cdef inline void bury(Worker *worker, Lane *lane) noexcept nogil:
    """Stop reading a lane whose device is gone, and report it to the loop once."""
    if lane.state == ACTIVE:
        unlink(&worker.active, lane, PARKED)
    if not lane.dead:
        lane.dead = True
        lane.next_dead = worker.dead
        worker.dead = lane
        wake(worker.news_fd)


cdef inline bint admit(Lane *lane, Buffer *buffer, int got) noexcept nogil:
    """Count a frame that was read, and apply the verdict. True: it is in flight."""
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
    """Count the result of a write: all of its frames are forwarded, or dropped for the reason that the errno means."""
    cdef Lane *lane = <Lane *>buffer.lane
    cdef int i
    lane.in_flight -= buffer.frames
    if written >= 0:
        lane.forwarded += buffer.frames
        lane.forwarded_bytes += buffer.frame_bytes
    elif written == -EIO:
        lane.drops[PEER_DOWN] += buffer.frames  # tun_get_user(): the device is not IFF_UP
    elif written == -EINVAL:
        lane.drops[BAD_VNET_HEADER] += buffer.frames  # the kernel refused the header
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
    """Put a buffer back on the free stack."""
    worker.buffers[number].lane = NULL
    worker.free[worker.frees] = number
    worker.frees += 1


cdef inline int read_buffer(Lane *lane, Buffer *buffer) noexcept nogil:
    """Read into a buffer at once; return the length, or a negative errno."""
    cdef int64_t got = read(lane.src, buffer.data, FRAME_MAX)
    return -errno if got < 0 else <int>got


cdef inline void write_buffer(Worker *worker, uint32_t number) noexcept nogil:
    """Write a buffer at once, count the result, and release the buffer."""
    cdef Buffer *buffer = &worker.buffers[number]
    cdef int64_t written = write((<Lane *>buffer.lane).dst, buffer.data, buffer.length)
    settle(buffer, -errno if written < 0 else written)
    release(worker, number)


cdef inline void flush(Worker *worker, Lane *lane) noexcept nogil:
    """Write a lane's pending frames at once. For any thread that holds the lock."""
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
    """Read and write up to this many waiting frames of a lane; return whether it is dry. For any thread that holds the lock."""
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
