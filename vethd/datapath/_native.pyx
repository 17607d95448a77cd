# cython: language_level=3, cdivision=True
"""The native engine's interface to Python: Worker and Lane. vethd.datapath.native makes an Engine of them.

Who writes what. Every member of a Worker's and a Lane's struct is written under the worker's lock, by the worker's
thread (serve()) and by the threads that call the methods here. A method releases the GIL before it takes the lock, and
the worker's thread never takes the GIL, so the two cannot deadlock.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython cimport no_gc
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EBADF, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_getres, timespec
from posix.unistd cimport close, read

from vethd.datapath._capture cimport RING_HEADER, Instruction, Shared, Tap as TapStruct, run_filter
from vethd.datapath._dropped cimport DROPPED_HEAD, DROPPED_MAX, Dropped
from vethd.datapath._frame cimport DROPS, FORWARD, STALE
from vethd.datapath._frame cimport verdict as frame_verdict
from vethd.datapath._gro cimport Batch, Buffer, gro_begin, gro_end, gro_offer
from vethd.datapath._lane cimport (
    BATCH, BUCKETS, CLOSED, DRAIN_FRAMES, ERRNOS, FRAME_MAX, PARKED, STALE_FRAMES, STRIDE,
    Lane as LaneStruct,
    Worker as WorkerStruct, activate, drain, give_turn, latency_bucket as bucket_of, pthread_mutex_destroy, pthread_mutex_init, shut, take_turn, untie, wake,
)
from vethd.datapath._poll cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, EPOLLONESHOT, PR_SET_TIMERSLACK, epoll_create1, prctl, watch,
)
from vethd.datapath._worker cimport serve

from vethd.model.drops import Drop

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *signals)
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *old)
    int SIG_SETMASK

if DROPS != len(Drop) or STALE != Drop.STALE:
    raise ImportError("the extension was built for other drop reasons: build it again")


cdef class Worker:
    """One thread, one epoll instance, one set of buffers, any number of lanes. The thread is the caller of run()."""

    cdef WorkerStruct *it

    def __cinit__(self, int spin_us, int moderation_us):
        cdef uint32_t i
        self.it = <WorkerStruct *>calloc(1, sizeof(WorkerStruct))
        if self.it == NULL:
            raise MemoryError
        pthread_mutex_init(&self.it.queue, NULL)
        pthread_mutex_init(&self.it.data, NULL)
        self.it.spin_ns = <int64_t>spin_us * 1000
        self.it.moderation_ns = self.it.pause_ns = <int64_t>moderation_us * 1000
        self.it.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.it.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.it.news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.it.memory = <uint8_t *>mmap(
            NULL, BATCH * STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
        )
        if self.it.memory == <uint8_t *>MAP_FAILED or min(self.it.epoll_fd, self.it.kick_fd, self.it.news_fd) < 0:
            raise OSError(errno, "no memory or descriptors for a worker")
        if watch(self.it.epoll_fd, EPOLL_CTL_ADD, self.it.kick_fd, EPOLLIN, NULL) < 0:
            raise OSError(errno, "epoll_ctl")
        for i in range(BATCH):
            self.it.buffers[i].data = self.it.memory + i * STRIDE

    def __dealloc__(self):
        if self.it == NULL:
            return
        self.close()
        pthread_mutex_destroy(&self.it.queue)
        pthread_mutex_destroy(&self.it.data)
        free(self.it)

    cpdef close(self):
        """Release descriptors and buffers, after run(). Closed lanes still return their counters. Idempotent."""
        if self.it.memory != NULL and self.it.memory != <uint8_t *>MAP_FAILED:
            munmap(self.it.memory, BATCH * STRIDE)
        for fd in (self.it.epoll_fd, self.it.kick_fd, self.it.news_fd):
            if fd >= 0:
                close(fd)
        self.it.memory, self.it.epoll_fd, self.it.kick_fd, self.it.news_fd = NULL, -1, -1, -1

    @property
    def news_fd(self):
        """The eventfd that is readable when take_dead() has tags to return."""
        return self.it.news_fd

    @property
    def rounds(self):
        """The number of rounds so far, and of pauses between them."""
        cdef uint64_t rounds, pauses
        with nogil:
            take_turn(self.it)
            rounds, pauses = self.it.rounds, self.it.pauses
            give_turn(self.it)
        return rounds, pauses

    def run(self):
        """Forward frames until stop()."""
        cdef sigset_t signals
        with nogil:
            sigfillset(&signals)
            pthread_sigmask(SIG_SETMASK, &signals, NULL)
            prctl(PR_SET_TIMERSLACK, 1)  # ns; the default, 50 us, would lengthen every pause
            serve(self.it)

    def stop(self):
        """Make run() return soon. Close the lanes first."""
        with nogil:
            take_turn(self.it)
            self.it.stopping = True
            give_turn(self.it)
        wake(self.it.kick_fd)

    def set_times(self, int spin_us, int moderation_us):
        """Set how long a thread polls before it sleeps, and the longest pause in bulk transfers (0: none)."""
        with nogil:
            take_turn(self.it)
            self.it.spin_ns = <int64_t>spin_us * 1000
            self.it.moderation_ns = self.it.pause_ns = <int64_t>moderation_us * 1000
            give_turn(self.it)

    def take_dead(self):
        """Return the tags of the lanes whose device was found gone since the last call, and make news_fd unreadable."""
        cdef LaneStruct *lane
        cdef uint64_t tag = 0
        tags = []
        read(self.it.news_fd, &tag, sizeof(tag))
        while True:
            with nogil:
                take_turn(self.it)
                lane = self.it.dead
                if lane != NULL:
                    tag = lane.tag
                    self.it.dead = lane.next_dead
                give_turn(self.it)
            if lane == NULL:
                return tags
            tags.append(tag)


@no_gc  # a lane refers to its worker, which refers to nothing: no cycle, and __dealloc__ has the worker
cdef class Lane:
    """One direction of one queue: frames are read from src and written to dst.

    The caller owns the fds and closes them after close().
    """

    cdef LaneStruct *it
    cdef Worker worker

    def __cinit__(self, Worker worker, int src, int dst, int vnet_hdr_len, uint64_t tag, int gate, bint urgent=False):
        self.worker = worker
        self.it = <LaneStruct *>calloc(1, sizeof(LaneStruct))
        if self.it == NULL:
            raise MemoryError
        self.it.src, self.it.dst, self.it.tag, self.it.gate, self.it.urgent = src, dst, tag, gate, urgent
        self.it.vnet_hdr_len = vnet_hdr_len
        self.it.state = PARKED
        # not armed yet; if the fd is invalid, the first read reports it
        if watch(worker.it.epoll_fd, EPOLL_CTL_ADD, src, EPOLLONESHOT, self.it) < 0 and errno != EBADF:
            self.it.state = CLOSED
            raise OSError(errno, "epoll_ctl")

    def __dealloc__(self):
        if self.it == NULL:
            return
        take_turn(self.worker.it)
        shut(self.worker.it, self.it)
        give_turn(self.worker.it)
        free(self.it.dropped.records)
        free(self.it)

    def start(self):
        """Start reading, unless the lane is closed or its device is gone."""
        with nogil:
            take_turn(self.worker.it)
            if self.it.state == PARKED and not self.it.dead:
                activate(self.worker.it, self.it)
            give_turn(self.worker.it)
        wake(self.worker.it.kick_fd)

    def close(self):
        """Stop reading. Waits for the worker's current round, if there is one."""
        with nogil:
            take_turn(self.worker.it)
            shut(self.worker.it, self.it)
            give_turn(self.worker.it)

    def join_back(self, Lane back):
        """Set the lane that has the other direction of this queue. Raises ValueError if another worker has it."""
        if back.worker is not self.worker:
            raise ValueError("the lanes of one queue are one worker's")
        with nogil:
            take_turn(self.worker.it)
            untie(self.it)
            untie(back.it)
            if self.it.state != CLOSED and back.it.state != CLOSED:
                self.it.back, back.it.back = back.it, self.it
            give_turn(self.worker.it)

    def set_gate(self, int gate):
        """Drop every frame for the reason gate, or forward them (-1). Opening first drops waiting frames as STALE."""
        with nogil:
            take_turn(self.worker.it)
            if gate == FORWARD and self.it.gate != FORWARD and self.it.state != CLOSED:
                self.it.gate = STALE
                drain(self.worker.it, self.it, STALE_FRAMES)
            self.it.gate = gate
            give_turn(self.worker.it)

    def set_limit(self, uint32_t limit):
        """Forward frames of at most limit bytes."""
        with nogil:
            take_turn(self.worker.it)
            self.it.limit = limit
            give_turn(self.worker.it)

    def set_trust(self, bint trust):
        """Mark frames without a checksum state as verified."""
        with nogil:
            take_turn(self.worker.it)
            self.it.trust = trust
            give_turn(self.worker.it)

    def set_gro(self, bint gro, bint udp):
        """Coalesce the frames of each turn; udp: also datagrams."""
        with nogil:
            take_turn(self.worker.it)
            self.it.gro, self.it.gro_udp = gro, udp
            give_turn(self.worker.it)

    def dry(self):
        """Read the waiting frames, up to a budget; return whether none is left."""
        cdef bint dry = True
        with nogil:
            take_turn(self.worker.it)
            if self.it.state != CLOSED:
                dry = drain(self.worker.it, self.it, DRAIN_FRAMES)
            give_turn(self.worker.it)
        return dry

    def counters(self):
        """Return the values of engine.Counters, as a tuple, at one instant."""
        cdef LaneStruct now
        with nogil:
            take_turn(self.worker.it)
            now = self.it[0]
            give_turn(self.worker.it)
        drops = tuple([now.drops[i] for i in range(DROPS)])
        errors = {now.error_codes[i]: now.error_frames[i] for i in range(ERRNOS) if now.error_codes[i]}
        return now.frames, now.frame_bytes, now.forwarded, now.forwarded_bytes, 0, drops, errors

    def latency(self):
        """Return the values of engine.Latency, as a tuple."""
        cdef uint64_t[BUCKETS] counts
        cdef uint64_t total
        cdef int i
        with nogil:
            take_turn(self.worker.it)
            memcpy(counts, self.it.latency, sizeof(counts))
            total = self.it.latency_ns
            give_turn(self.worker.it)
        return tuple([counts[i] for i in range(BUCKETS)]), total

    def dropped(self):
        """Return the last dropped frames, oldest first: the values of engine.Dropped but the queue, as tuples."""
        cdef Dropped[DROPPED_MAX] records
        cdef uint64_t first
        cdef uint32_t kept, i
        cdef int64_t vnet = self.it.vnet_hdr_len
        with nogil:
            take_turn(self.worker.it)
            kept = <uint32_t>min(self.it.dropped.count, <uint64_t>self.it.dropped.room)
            first = self.it.dropped.count - kept
            for i in range(kept):
                records[i] = self.it.dropped.records[(first + i) % self.it.dropped.room]
            give_turn(self.worker.it)
        return [
            (
                records[i].number, records[i].time_ns, records[i].reason, records[i].error, records[i].frames,
                max(<int64_t>0, records[i].length - vnet), records[i].limit,
                bytes(records[i].head[:min(<int64_t>records[i].head_length, vnet)]),
                bytes(records[i].head[vnet:max(vnet, min(<int64_t>records[i].head_length, vnet + DROPPED_HEAD))]),
            )
            for i in range(kept)
        ]


@no_gc  # as Lane
cdef class Tap:
    """One lane's frames for one capture: they are copied into ring until close(). See engine.TapSpec."""

    cdef TapStruct it
    cdef Lane lane
    cdef Py_buffer ring
    cdef bint open

    def __cinit__(self, Lane lane, ring, bytes program, uint32_t snaplen, int kinds, int queue, int event_fd):
        self.lane = lane
        PyObject_GetBuffer(ring, &self.ring, PyBUF_WRITABLE)
        self.open = True
        cdef uint64_t room = self.ring.len - RING_HEADER
        if self.ring.len <= RING_HEADER or room & (room - 1):
            raise ValueError("the room of a ring must be a power of 2")
        self.it.instructions = len(program) // sizeof(Instruction)
        self.it.program = <Instruction *>calloc(self.it.instructions + 1, sizeof(Instruction))
        if self.it.program == NULL:
            raise MemoryError
        memcpy(self.it.program, PyBytes_AS_STRING(program), self.it.instructions * sizeof(Instruction))
        self.it.shared = <Shared *>self.ring.buf
        self.it.data = <uint8_t *>self.ring.buf + RING_HEADER
        self.it.room, self.it.snaplen, self.it.kinds, self.it.queue = room, snaplen, kinds, queue
        self.it.event_fd = event_fd
        with nogil:
            take_turn(lane.worker.it)
            if lane.it.state != CLOSED:
                self.it.next = lane.it.taps
                lane.it.taps = &self.it
            give_turn(lane.worker.it)

    def __dealloc__(self):
        self.close()

    cpdef close(self):
        """Stop copying, and release the ring. Idempotent."""
        cdef TapStruct **at
        if not self.open:
            return
        self.open = False
        with nogil:
            take_turn(self.lane.worker.it)
            at = &self.lane.it.taps
            while at[0] != NULL:
                if at[0] == &self.it:
                    at[0] = self.it.next
                    break
                at = &at[0].next
            give_turn(self.lane.worker.it)
        free(self.it.program)
        self.it.program = NULL
        PyBuffer_Release(&self.ring)


def clock_resolution_ns():
    """Return the resolution of a pause: 1, or a jiffy if the kernel has no high-resolution timers."""
    cdef timespec resolution
    clock_getres(CLOCK_MONOTONIC, &resolution)
    return resolution.tv_sec * 1_000_000_000 + resolution.tv_nsec


include "_spec.pxi"
