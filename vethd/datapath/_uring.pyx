# cython: language_level=3, cdivision=True
"""The native engine's Python interface: Worker and Lane. vethd.datapath.uring makes an Engine of them.

Who writes what. Everything in a Worker's and a Lane's struct is written under the worker's lock, by the worker's thread (serve())
and by the threads that call the methods here; except stopping and the tag, which are words that are written once. Methods
release the GIL before they take the lock, and the worker's thread never takes the GIL, so neither waits for the other's.
"""

from cython cimport no_gc
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.fcntl cimport O_CLOEXEC, O_NONBLOCK, O_RDWR, open
from posix.unistd cimport close, read

from vethd.datapath._exchange cimport RING_ENTRIES
from vethd.datapath._frame cimport DROPS, FORWARD, STALE
from vethd.datapath._frame cimport verdict as frame_verdict
from vethd.datapath._gro cimport Batch, Buffer, gro_begin, gro_end, gro_offer
from vethd.datapath._lane cimport (
    ACTIVE, ARMED, BUFFERS, CLOSED, CLOSING, DRAIN_FRAMES, EBADFD, ERRNOS, FRAME_MAX, PARKED, STALE_FRAMES, STRIDE,
    Lane as LaneStruct,
    Worker as WorkerStruct, activate, drain, flush, give_turn, link, pthread_mutex_destroy, pthread_mutex_init, sem_destroy,
    sem_init, sem_post, sem_wait, take_turn, unlink, wake,
)
from vethd.datapath._ring cimport (
    IORING_OP_READ, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, RWF_NOWAIT, Cqe, Ring, Sqe, mmap, munmap,
    ring_close, ring_cqe, ring_enter, ring_open, ring_sqe,
)
from vethd.datapath._worker cimport serve

from vethd.model.drops import Drop

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *signals)
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *old)
    int SIG_SETMASK

if DROPS != len(Drop) or STALE != Drop.STALE:
    raise ImportError("the extension was built for other drop reasons: rebuild it")


include "_probe.pxi"


cdef class Worker:
    """One thread, one ring, one pool of buffers, any number of lanes. The thread is the one that calls run()."""

    cdef WorkerStruct *it

    def __cinit__(self, int spin_us, bint plain=False):
        cdef uint32_t i
        self.it = <WorkerStruct *>calloc(1, sizeof(WorkerStruct))
        if self.it == NULL:
            raise MemoryError
        pthread_mutex_init(&self.it.queue, NULL)
        pthread_mutex_init(&self.it.data, NULL)
        sem_init(&self.it.started, 0, 0)
        self.it.ring.fd = -1
        self.it.spin_ns = <int64_t>spin_us * 1000
        self.it.plain = plain
        self.it.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.it.news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.it.memory = <uint8_t *>mmap(
            NULL, BUFFERS * STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
        )
        if self.it.kick_fd < 0 or self.it.news_fd < 0 or self.it.memory == <uint8_t *>MAP_FAILED:
            raise OSError(errno, "no memory or descriptors for a worker")
        for i in range(BUFFERS):
            self.it.buffers[i].data = self.it.memory + i * STRIDE
            self.it.free[i] = BUFFERS - 1 - i
        self.it.frees = BUFFERS

    def __dealloc__(self):
        if self.it == NULL:
            return
        self.close()
        sem_destroy(&self.it.started)
        pthread_mutex_destroy(&self.it.queue)
        pthread_mutex_destroy(&self.it.data)
        free(self.it)

    cpdef close(self):
        """Release descriptors and buffers; call it after run(). Closed lanes keep their counters. Idempotent."""
        if self.it.memory != NULL and self.it.memory != <uint8_t *>MAP_FAILED:
            munmap(self.it.memory, BUFFERS * STRIDE)
        if self.it.kick_fd >= 0:
            close(self.it.kick_fd)
        if self.it.news_fd >= 0:
            close(self.it.news_fd)
        self.it.memory, self.it.kick_fd, self.it.news_fd = NULL, -1, -1

    @property
    def news_fd(self):
        """The eventfd that is readable when take_dead() has tags to return."""
        return self.it.news_fd

    @property
    def rounds(self):
        """The number of rounds: system calls that moved or looked for frames."""
        cdef uint64_t rounds
        with nogil:
            take_turn(self.it)
            rounds = self.it.rounds
            give_turn(self.it)
        return rounds

    @property
    def renewals(self):
        """How often the ring failed and was replaced."""
        cdef uint64_t renewals
        with nogil:
            take_turn(self.it)
            renewals = self.it.renewals
            give_turn(self.it)
        return renewals

    @property
    def ring_fd(self):
        """The ring's descriptor; tests use it to make the ring fail."""
        cdef int fd
        with nogil:
            take_turn(self.it)
            fd = self.it.ring.fd
            give_turn(self.it)
        return fd

    def run(self):
        """Forward frames until stop(). The ring belongs to the thread that calls this."""
        cdef sigset_t signals
        with nogil:
            sigfillset(&signals)
            pthread_sigmask(SIG_SETMASK, &signals, NULL)
            self.it.error = -ring_open(&self.it.ring, RING_ENTRIES)
            sem_post(&self.it.started)
            if self.it.error == 0:
                serve(self.it)
                ring_close(&self.it.ring)

    def wait_started(self):
        """Wait until run() has its ring. Raises OSError if no ring could be made."""
        with nogil:
            sem_wait(&self.it.started)
        if self.it.error:
            raise OSError(self.it.error, "io_uring_setup")

    def stop(self):
        """Make run() return soon. The caller closes the lanes first."""
        with nogil:
            take_turn(self.it)
            self.it.stopping = True
            give_turn(self.it)
        wake(self.it.kick_fd)

    def set_spin(self, int spin_us):
        """Set for how many microseconds to poll after a lane's last frame before sleeping."""
        with nogil:
            take_turn(self.it)
            self.it.spin_ns = <int64_t>spin_us * 1000
            give_turn(self.it)

    def take_dead(self):
        """Return the tags of the lanes whose device was found gone since the last call. Makes news_fd unreadable."""
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


@no_gc  # a lane refers to a worker, a worker to nothing: there is no cycle, and __dealloc__ has its worker
cdef class Lane:
    """One direction of one queue: frames are read from src and written to dst. The fds stay the caller's, which calls close()
    before it closes them.
    """

    cdef LaneStruct *it
    cdef Worker worker

    def __cinit__(self, Worker worker, int src, int dst, int vnet_hdr_len, uint64_t tag, int gate):
        self.worker = worker
        self.it = <LaneStruct *>calloc(1, sizeof(LaneStruct))
        if self.it == NULL:
            raise MemoryError
        sem_init(&self.it.closed, 0, 0)
        self.it.src, self.it.dst, self.it.tag, self.it.gate = src, dst, tag, gate
        self.it.vnet_hdr_len = vnet_hdr_len
        self.it.state = PARKED

    def __dealloc__(self):
        cdef bint ours
        if self.it == NULL:
            return
        take_turn(self.worker.it)
        ours = self.it.state in (PARKED, CLOSED)  # otherwise the worker may still use it: leak it
        if ours:
            self.forget_death()
        give_turn(self.worker.it)
        if ours:
            sem_destroy(&self.it.closed)
            free(self.it)

    def start(self):
        """Start reading, unless the lane is closed."""
        with nogil:
            take_turn(self.worker.it)
            if self.it.state == PARKED and not self.it.dead:
                activate(self.worker.it, self.it)
            give_turn(self.worker.it)
        wake(self.worker.it.kick_fd)

    def begin_close(self):
        """Write the frames that were read, and stop reading. True: call end_close(), because the worker's ring polls the fd."""
        cdef bint armed
        with nogil:
            take_turn(self.worker.it)
            flush(self.worker.it, self.it)
            armed = self.it.state == ARMED
            if armed:
                unlink(&self.worker.it.armed, self.it, CLOSING)
                link(&self.worker.it.closing, self.it, CLOSING)
                self.worker.it.cancels_due = True
            elif self.it.state == ACTIVE:
                unlink(&self.worker.it.active, self.it, CLOSED)
            else:
                self.it.state = CLOSED
            self.forget_death()
            give_turn(self.worker.it)
            if armed:
                wake(self.worker.it.kick_fd)
        return armed

    def end_close(self):
        """Wait until the worker has cancelled the poll. Lanes that are closed together share one wait."""
        with nogil:
            sem_wait(&self.it.closed)

    def close(self):
        """Close one lane; see begin_close()."""
        if self.begin_close():
            self.end_close()

    cdef void forget_death(self) noexcept nogil:
        cdef LaneStruct **at = &self.worker.it.dead
        while at[0] != NULL:
            if at[0] == self.it:
                at[0] = self.it.next_dead
                return
            at = &at[0].next_dead

    def set_gate(self, int gate):
        """Drop every frame for this reason, or forward them (-1). Opening first drops the waiting frames as STALE."""
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
        """Coalesce each round's frames; udp: datagrams as well."""
        with nogil:
            take_turn(self.worker.it)
            self.it.gro, self.it.gro_udp = gro, udp
            give_turn(self.worker.it)

    def dry(self):
        """Read and write the waiting frames, up to a budget; return whether none is left."""
        cdef bint dry = True
        with nogil:
            take_turn(self.worker.it)
            if self.it.state != CLOSED:
                dry = drain(self.worker.it, self.it, DRAIN_FRAMES)
            give_turn(self.worker.it)
        return dry

    def counters(self):
        """Return the values of engine.Counters at one instant, as a tuple."""
        cdef LaneStruct now
        with nogil:
            take_turn(self.worker.it)
            now = self.it[0]
            give_turn(self.worker.it)
        drops = tuple([now.drops[i] for i in range(DROPS)])
        errors = {now.error_codes[i]: now.error_frames[i] for i in range(ERRNOS) if now.error_codes[i]}
        return now.frames, now.frame_bytes, now.forwarded, now.forwarded_bytes, now.in_flight, drops, errors


include "_spec.pxi"
