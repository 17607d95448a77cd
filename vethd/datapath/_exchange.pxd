"""What the native engine's worker and its ring say to each other: entries, completions, polls, and a ring anew.

Theory of operation. Writes and reads complete inline and are waited for by exchange(); polls stay in the ring, one a lane at
most, and whoever closes a lane waits until its poll is gone.
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
    PATIENCE = 1000  # refusals in a row for want of memory, before a ring is made anew
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
    """A lane's poll completed: with events, or a negative errno where it was cancelled."""
    if lane.state == CLOSING:
        unlink(&worker.closing, lane, CLOSED)
        sem_post(&lane.closed)  # the lane is its owner's again, who may free it at once
        return
    unlink(&worker.armed, lane, PARKED)
    if events > 0 and events & POLLERR:  # tun_chr_poll(): the device is no longer registered
        bury(worker, lane)
    elif not lane.dead:
        activate(worker, lane)


cdef inline void reap(Worker *worker) noexcept nogil:
    """Deal with every completion that is there."""
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
    """Enter the kernel. What says that this ring will never work again makes worker.error."""
    cdef int result = ring_enter(&worker.ring, min_complete)
    worker.refusals = 0 if result == 0 or result == -EINTR else worker.refusals + 1
    if worker.refusals > PATIENCE or (worker.refusals and result != -EAGAIN and result != -EBUSY):
        worker.error = -result


cdef inline void exchange(Worker *worker) noexcept nogil:
    """Submit all that was taken and wait for every read and write of it: one system call, as they complete inline."""
    enter(worker, 0)
    reap(worker)
    while (worker.ring.unsent or worker.outstanding) and not worker.error:
        enter(worker, 1 if worker.outstanding and not worker.ring.unsent else 0)
        reap(worker)


cdef inline Sqe *take_sqe(Worker *worker, uint8_t opcode, int fd, uint64_t user_data) noexcept nogil:
    """Take a submission entry; where all are taken, submit them first."""
    while worker.ring.unsent >= RING_ENTRIES and not worker.error:
        enter(worker, 0)
    return ring_sqe(&worker.ring, opcode, fd, user_data)


cdef inline void arm(Worker *worker, Lane *lane) noexcept nogil:
    """Let the kernel say when an active lane has frames again."""
    unlink(&worker.active, lane, ARMED)
    link(&worker.armed, lane, ARMED)
    take_sqe(worker, IORING_OP_POLL_ADD, lane.src, <uint64_t>lane | POLL).op_flags = POLLIN


cdef inline void cancel_closing(Worker *worker) noexcept nogil:
    """Cancel the polls of lanes that are to be closed. Again, where the kernel answers EALREADY: a frame had come, and the poll
    was about to complete; once another has taken the frame, it polls on (io_poll_check_events(), IOU_POLL_REISSUE).
    """
    cdef Lane *lane = worker.closing
    if not worker.cancels_due:
        return
    worker.cancels_due = False
    while lane != NULL:
        take_sqe(worker, IORING_OP_POLL_REMOVE, -1, CANCEL).addr = <uint64_t>lane | POLL
        lane = lane.next if lane.next != worker.closing else NULL


cdef inline void renew(Worker *worker) noexcept nogil:
    """Make a new ring where the old one failed, and go on; polls are armed again, and what the old one had of reads and
    writes is given up, the writes as write errors (ECANCELED). Where none is to be had, try again a little later.
    """
    cdef uint32_t i
    cdef timespec pause
    worker.renewals += 1
    worker.error = worker.refusals = worker.outstanding = worker.pendings = worker.frees = 0
    worker.kick_armed = False
    ring_close(&worker.ring)  # cancels all that is in it
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
