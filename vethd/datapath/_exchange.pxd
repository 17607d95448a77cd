"""The native engine's use of its ring: submission entries, completions, polls, and the replacement of a failed ring.

Theory of operation. Writes and reads complete inline, and exchange() waits for them. Polls stay in the ring, at most one per
lane; the thread that closes a lane waits until the lane's poll is gone.
"""

from libc.errno cimport EAGAIN, EBUSY, EINTR
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.time cimport nanosleep, timespec
from posix.unistd cimport read

from vethd.datapath._lane cimport (
    ARMED, BUFFERS, CLOSED, CLOSING, PARKED, Lane, Worker, activate, bury, give_turn, link, release, sem_post, settle,
    take_turn, unlink,
)
from vethd.datapath._ring cimport (
    IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, Cqe, Sqe, ring_close, ring_cqe, ring_enter, ring_open, ring_seen, ring_sqe,
)

cdef enum:
    RING_ENTRIES = 512  # a round's 64 reads and 64 writes, and room for polls
    PATIENCE = 1000  # consecutive refusals for lack of memory, before a ring is replaced
    RENEWAL_NS = 50_000_000
    EALREADY = 114
    ECANCELED = 125
    POLLIN = 1
    POLLERR = 8

cdef enum Kind:  # the low bits of user_data; above them a buffer's number or a lane's address
    WRITE
    READ
    POLL
    KICK
    CANCEL
    KINDS = 7


cdef inline void woken(Worker *worker, Lane *lane, int events) noexcept nogil:
    """Handle a lane's completed poll: events, or a negative errno if it was cancelled."""
    if lane.state == CLOSING:
        unlink(&worker.closing, lane, CLOSED)
        sem_post(&lane.closed)  # the lane belongs to its owner again, which may free it at once
        return
    unlink(&worker.armed, lane, PARKED)
    if events > 0 and events & POLLERR:  # tun_chr_poll(): the device is no longer registered
        bury(worker, lane)
    elif not lane.dead:
        activate(worker, lane)


cdef inline void reap(Worker *worker) noexcept nogil:
    """Handle all available completions."""
    cdef uint64_t above, ignored = 0
    cdef Cqe *cqe
    while True:
        cqe = ring_cqe(&worker.ring)
        if cqe == NULL:
            return
        above = cqe.user_data & ~<uint64_t>KINDS
        if cqe.user_data & KINDS == WRITE:
            settle(&worker.buffers[above >> 3], cqe.res)
            release(worker, <uint32_t>(above >> 3))
            worker.outstanding -= 1
        elif cqe.user_data & KINDS == READ:
            worker.buffers[above >> 3].got = cqe.res
            worker.outstanding -= 1
        elif cqe.user_data & KINDS == POLL:
            woken(worker, <Lane *>above, cqe.res)
        elif cqe.user_data & KINDS == KICK:
            worker.kick_armed = False
            read(worker.kick_fd, &ignored, sizeof(ignored))
        elif cqe.res == -EALREADY:
            worker.cancels_due = True
        ring_seen(&worker.ring)


cdef inline void enter(Worker *worker, uint32_t min_complete) noexcept nogil:
    """Enter the kernel. Set worker.error if the result means that this ring will never work again."""
    cdef int result = ring_enter(&worker.ring, min_complete)
    worker.refusals = 0 if result == 0 or result == -EINTR else worker.refusals + 1
    if worker.refusals > PATIENCE or (worker.refusals and result != -EAGAIN and result != -EBUSY):
        worker.error = -result


cdef inline void exchange(Worker *worker) noexcept nogil:
    """Submit all entries and wait for their reads and writes: one system call, because these complete inline."""
    enter(worker, 0)
    reap(worker)
    while (worker.ring.unsent or worker.outstanding) and not worker.error:
        enter(worker, 1 if worker.outstanding and not worker.ring.unsent else 0)
        reap(worker)


cdef inline Sqe *take_sqe(Worker *worker, uint8_t opcode, int fd, uint64_t user_data) noexcept nogil:
    """Take a submission entry; if all are taken, submit them first."""
    while worker.ring.unsent >= RING_ENTRIES and not worker.error:
        enter(worker, 0)
    return ring_sqe(&worker.ring, opcode, fd, user_data)


cdef inline void arm(Worker *worker, Lane *lane) noexcept nogil:
    """Poll an active lane's fd, so that the kernel reports when the lane has frames again."""
    unlink(&worker.active, lane, ARMED)
    link(&worker.armed, lane, ARMED)
    take_sqe(worker, IORING_OP_POLL_ADD, lane.src, <uint64_t>lane | POLL).op_flags = POLLIN


cdef inline void cancel_closing(Worker *worker) noexcept nogil:
    """Cancel the polls of closing lanes. This is repeated if the kernel returns EALREADY: a frame had arrived, and the poll was
    about to complete; if another thread takes the frame, the poll continues (io_poll_check_events(), IOU_POLL_REISSUE).
    """
    cdef Lane *lane = worker.closing
    if not worker.cancels_due:
        return
    worker.cancels_due = False
    while lane != NULL:
        take_sqe(worker, IORING_OP_POLL_REMOVE, -1, CANCEL).addr = <uint64_t>lane | POLL
        lane = lane.next if lane.next != worker.closing else NULL


cdef inline void renew(Worker *worker) noexcept nogil:
    """Replace a failed ring and continue. Polls are armed again; reads and writes in the old ring are given up, and the writes
    count as write errors (ECANCELED). If no ring can be made, retry after RENEWAL_NS.
    """
    cdef uint32_t i
    cdef timespec pause
    worker.renewals += 1
    worker.error = worker.refusals = worker.outstanding = worker.pendings = worker.frees = 0
    worker.kick_armed = False
    ring_close(&worker.ring)  # cancels everything in it
    for i in range(BUFFERS):
        if worker.buffers[i].lane != NULL:
            settle(&worker.buffers[i], -ECANCELED)
        release(worker, i)
    while worker.closing != NULL:
        woken(worker, worker.closing, 0)
    while worker.armed != NULL:
        woken(worker, worker.armed, 0)
    while ring_open(&worker.ring, RING_ENTRIES) < 0 and not worker.stopping:
        pause.tv_sec, pause.tv_nsec = 0, RENEWAL_NS
        give_turn(worker)
        nanosleep(&pause, NULL)
        take_turn(worker)
