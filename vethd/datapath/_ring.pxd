"""One io_uring by raw system calls: set up, fill, enter, reap. For one thread; every function is nogil.

Theory of operation. The kernel maps two rings and an array of submission entries. We own the submission ring's tail and the
completion ring's head, the kernel owns the other two. Each side publishes its index with a release store and reads the
other's with an acquire load; there is no other synchronisation. Entries are taken with ring_sqe(), and the kernel sees them
at the next ring_enter(). The caller must know how many entries it may take: there is no check for a full ring.

Kernel: io_uring/io_uring.c, include/uapi/linux/io_uring.h. The structs are defined here, as in the ABI, so that the headers of
any kernel suffice.
"""

from libc.errno cimport EINVAL, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from *:
    """
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    uint32_t load_acquire(const uint32_t *p) noexcept nogil
    void store_release(uint32_t *p, uint32_t v) noexcept nogil
    long syscall(long number, ...) noexcept nogil
    int close(int fd) noexcept nogil
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset) noexcept nogil
    int munmap(void *addr, size_t length) noexcept nogil
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_POPULATE, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED
    long SYS_io_uring_setup "425"  # the same on every architecture but alpha
    long SYS_io_uring_enter "426"

cdef enum:
    IORING_OP_POLL_ADD = 6
    IORING_OP_POLL_REMOVE = 7
    IORING_OP_READ = 22
    IORING_OP_WRITE = 23
    IORING_ENTER_GETEVENTS = 1
    IORING_FEAT_SINGLE_MMAP = 1
    IORING_SETUP_COOP_TASKRUN = 1 << 8
    IORING_SETUP_SINGLE_ISSUER = 1 << 12
    IORING_SETUP_DEFER_TASKRUN = 1 << 13
    IORING_OFF_SQ_RING = 0
    IORING_OFF_SQES = 0x10000000
    RWF_NOWAIT = 8


cdef struct SqOffsets:
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1
    uint64_t user_addr


cdef struct CqOffsets:
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1
    uint64_t user_addr


cdef struct Params:
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd
    uint32_t resv[3]
    SqOffsets sq_off
    CqOffsets cq_off


cdef struct Sqe:  # 64 bytes
    uint8_t opcode, flags
    uint16_t ioprio
    int32_t fd
    uint64_t off, addr
    uint32_t len, op_flags  # rw_flags, poll32_events
    uint64_t user_data
    uint64_t rest[3]


cdef struct Cqe:
    uint64_t user_data
    int32_t res
    uint32_t flags


cdef struct Ring:
    int fd
    uint32_t tail  # the submission ring's tail that the kernel sees at the next enter
    uint32_t unsent
    uint32_t sq_mask, cq_mask
    uint32_t *sq_tail
    uint32_t *cq_head
    uint32_t *cq_tail
    Sqe *sqes
    Cqe *cqes
    void *rings
    size_t rings_len, sqes_len


cdef inline int ring_setup(uint32_t entries, Params *params) noexcept nogil:
    """Make a ring with the best flags that this kernel supports; return the fd, or a negative errno."""
    cdef uint32_t[3] flags
    cdef int i
    cdef long fd = -1
    flags[0] = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN  # 6.1
    flags[1] = IORING_SETUP_COOP_TASKRUN  # 5.19
    flags[2] = 0
    for i in range(3):
        memset(params, 0, sizeof(Params))
        params.flags = flags[i]
        fd = syscall(SYS_io_uring_setup, entries, params)
        if fd >= 0:
            return <int>fd
        if errno != EINVAL:
            return -errno
    return -EINVAL


cdef inline int ring_open(Ring *ring, uint32_t entries) noexcept nogil:
    """Make and map a ring; return 0, or a negative errno. Only the thread that calls this may use the ring."""
    cdef Params params
    cdef int fd = ring_setup(entries, &params)
    cdef size_t sq_len, cq_len
    cdef uint8_t *base
    cdef uint32_t i
    memset(ring, 0, sizeof(Ring))
    ring.fd = fd
    if fd < 0:
        return fd
    sq_len = params.sq_off.array + params.sq_entries * sizeof(uint32_t)
    cq_len = params.cq_off.cqes + params.cq_entries * sizeof(Cqe)
    ring.rings_len = max(sq_len, cq_len)
    ring.sqes_len = params.sq_entries * sizeof(Sqe)
    ring.rings = mmap(NULL, ring.rings_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING)
    ring.sqes = <Sqe *>mmap(NULL, ring.sqes_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES)
    # without SINGLE_MMAP (before 5.4) the completion ring has a mapping of its own; READ and WRITE came in 5.6
    if ring.rings == MAP_FAILED or ring.sqes == MAP_FAILED or not params.features & IORING_FEAT_SINGLE_MMAP:
        ring_close(ring)
        return -EINVAL
    base = <uint8_t *>ring.rings
    ring.sq_tail = <uint32_t *>(base + params.sq_off.tail)
    ring.cq_head = <uint32_t *>(base + params.cq_off.head)
    ring.cq_tail = <uint32_t *>(base + params.cq_off.tail)
    ring.sq_mask = params.sq_entries - 1
    ring.cq_mask = params.cq_entries - 1
    ring.cqes = <Cqe *>(base + params.cq_off.cqes)
    for i in range(params.sq_entries):
        (<uint32_t *>(base + params.sq_off.array))[i] = i
    return 0


cdef inline void ring_close(Ring *ring) noexcept nogil:
    """Unmap and close a ring, even one for which ring_open() failed midway."""
    if ring.rings != NULL and ring.rings != MAP_FAILED:
        munmap(ring.rings, ring.rings_len)
    if ring.sqes != NULL and <void *>ring.sqes != MAP_FAILED:
        munmap(ring.sqes, ring.sqes_len)
    if ring.fd >= 0:
        close(ring.fd)
    ring.fd = -1


cdef inline Sqe *ring_sqe(Ring *ring, uint8_t opcode, int fd, uint64_t user_data) noexcept nogil:
    """Take the next submission entry; its other fields are 0."""
    cdef Sqe *sqe = &ring.sqes[ring.tail & ring.sq_mask]
    ring.tail += 1
    ring.unsent += 1
    memset(sqe, 0, sizeof(Sqe))
    sqe.opcode = opcode
    sqe.fd = fd
    sqe.user_data = user_data
    return sqe


cdef inline int ring_enter(Ring *ring, uint32_t min_complete) noexcept nogil:
    """Submit the taken entries and wait for min_complete completions. Return 0, or a negative errno (-EINTR: wait again)."""
    cdef long sent
    store_release(ring.sq_tail, ring.tail)
    sent = syscall(SYS_io_uring_enter, ring.fd, ring.unsent, min_complete, IORING_ENTER_GETEVENTS, NULL, 0)
    if sent < 0:
        return -errno
    ring.unsent -= <uint32_t>sent
    return 0


cdef inline Cqe *ring_cqe(Ring *ring) noexcept nogil:
    """Return the oldest completion, or NULL; ring_seen() returns it to the kernel."""
    cdef uint32_t head = ring.cq_head[0]
    if head == load_acquire(ring.cq_tail):
        return NULL
    return &ring.cqes[head & ring.cq_mask]


cdef inline void ring_seen(Ring *ring) noexcept nogil:
    """Return the oldest completion's place to the kernel."""
    store_release(ring.cq_head, ring.cq_head[0] + 1)
