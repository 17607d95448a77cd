"""The native engine's thread: rounds of writes and reads, each in one system call.

Theory of operation. A round puts into the ring the writes that the last one left, then for every active lane as many
reads as it is likely to have frames, and enters the kernel once; all of them complete inline and in order, so nothing of a
lane is ever overtaken, and a buffer that was written is free again. What was read is judged, coalesced, and left to the next
round to be written. Reads never wait (RWF_NOWAIT): a lane that was dry for spin_us gets a one-shot poll instead, and with no lane active the
thread sleeps in the kernel. Between rounds nothing is in the ring but polls: that is what lets the loop's thread
read and write the same fds itself, under the lock (drain()).

A lane asks for twice as many reads when it got all that it asked for, for one more than it got otherwise, and never for more than
TURN_BYTES of frames like its last ones: that is fair by frames and by bytes, and the lanes take turns in a circle.

Spinning is for requests and answers, and steals from whoever wants the CPU. So nobody spins while more than BULK_BYTES come in a
millisecond: whoever sends so much does not wait for single answers (TCP loses a fifth to a worker that spins). And a probe takes
a microsecond or two: one that took STOLEN_NS was preempted, and nobody spins for the next NO_SPIN_NS.
"""

from libc.errno cimport EAGAIN, EBUSY, EINTR
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec
from posix.unistd cimport read

from vethd.datapath._gro cimport Batch, Buffer, gro_begin, gro_end, gro_offer
from vethd.datapath._lane cimport (
    ARMED, BATCH, BUFFERS, CLOSED, CLOSING, FRAME_MAX, PARKED, Lane, Worker, activate, admit, bury, fatal, give_turn, link,
    release, sem_post, settle, take_turn, unlink,
)
from vethd.datapath._ring cimport (
    IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_READ, IORING_OP_WRITE, RWF_NOWAIT, Cqe, Sqe, ring_close,
    ring_cqe, ring_enter, ring_open, ring_seen, ring_sqe,
)

cdef enum:
    RING_ENTRIES = 512  # a round's 64 reads and 64 writes, and room for polls
    TURN_BYTES = 256 << 10  # four super-frames
    BULK_BYTES = 128 << 10  # 1 Gbit/s
    WINDOW_NS = 1_000_000
    STOLEN_NS = 30_000
    NO_SPIN_NS = 2_000_000
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


cdef struct Turn:  # a lane's share of a round
    Lane *lane
    uint32_t first, count


cdef inline int64_t clock_ns() noexcept nogil:
    """Read the monotonic clock."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


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


cdef inline uint32_t ask(Worker *worker, Turn *turns, uint32_t *asked) noexcept nogil:
    """Put a round's writes and reads into the ring; how many lanes have a turn. asked: the reads' buffers, in order."""
    cdef uint32_t lanes = 0, reads = 0, count, number, i
    cdef Lane *lane
    cdef Sqe *sqe
    for i in range(worker.pendings):
        number = worker.pending[i]
        lane = <Lane *>worker.buffers[number].lane
        sqe = take_sqe(worker, IORING_OP_WRITE, lane.dst, <uint64_t>number << 3 | WRITE)
        sqe.addr, sqe.len, sqe.op_flags = <uint64_t>worker.buffers[number].data, worker.buffers[number].length, RWF_NOWAIT
    worker.outstanding += worker.pendings
    worker.pendings = 0
    lane = worker.active
    while lane != NULL and reads < BATCH:
        count = min(lane.depth, BATCH - reads)
        turns[lanes].lane, turns[lanes].first, turns[lanes].count = lane, reads, count
        lanes += 1
        for i in range(count):
            worker.frees -= 1
            number = worker.free[worker.frees]
            asked[reads] = number
            reads += 1
            sqe = take_sqe(worker, IORING_OP_READ, lane.src, <uint64_t>number << 3 | READ)
            sqe.addr, sqe.len, sqe.op_flags = <uint64_t>worker.buffers[number].data, FRAME_MAX, RWF_NOWAIT
        lane = lane.next
        if lane == worker.active:
            break
    worker.active = lane
    worker.outstanding += reads
    return lanes


cdef inline uint32_t next_depth(uint32_t got, uint32_t asked, uint64_t size) noexcept nogil:
    """Say how many reads a lane gets in the next round, after got frames of size bytes in all."""
    cdef uint64_t most = min(<uint64_t>BATCH, <uint64_t>TURN_BYTES * got // (size | 1))
    cdef uint64_t depth = 2 * got if got == asked else got + 1
    return <uint32_t>max(<uint64_t>1, min(depth, most))


cdef inline uint32_t take(Worker *worker, Turn *turn, const uint32_t *asked) noexcept nogil:
    """Judge and coalesce what a lane's reads brought; how many frames. What goes on is pending afterwards."""
    cdef Lane *lane = turn.lane
    cdef uint32_t got = 0, i
    cdef uint64_t size = 0
    cdef bint gone = False, gro = lane.gro and turn.count > 1
    cdef Buffer *buffer
    cdef Batch batch
    if gro:
        gro_begin(&batch, lane.vnet_hdr_len, lane.gro_udp)
    for i in range(turn.first, turn.first + turn.count):
        buffer = &worker.buffers[asked[i]]
        if buffer.got >= 0:
            got += 1
            size += buffer.got
            if admit(lane, buffer, buffer.got) and not (gro and gro_offer(&batch, buffer)):
                worker.pending[worker.pendings] = asked[i]
                worker.pendings += 1
                continue
        elif fatal(buffer.got):
            gone = True
        release(worker, asked[i])
    if gro:
        gro_end(&batch)
    worker.window_bytes += size
    if gone:
        bury(worker, lane)
    elif got:
        lane.last_ns = worker.now_ns
        lane.depth = next_depth(got, turn.count, size)
    elif worker.bulk or worker.now_ns - lane.last_ns >= worker.spin_ns or worker.now_ns < worker.no_spin_until_ns:
        arm(worker, lane)
    else:
        lane.depth = 1
    return got


cdef inline void run_round(Worker *worker) noexcept nogil:
    """Write what is pending, read what is there."""
    cdef Turn[BATCH] turns
    cdef uint32_t[BATCH] asked
    cdef uint32_t lanes, i, frames = worker.pendings
    cdef int64_t before = clock_ns()
    lanes = ask(worker, turns, asked)
    exchange(worker)
    worker.now_ns = clock_ns()
    worker.rounds += 1
    if worker.error:
        return
    for i in range(lanes):
        frames += take(worker, &turns[i], asked)
    if worker.window_bytes > BULK_BYTES:
        worker.bulk = True
    if worker.now_ns - worker.window_ns >= WINDOW_NS:
        worker.bulk = worker.window_bytes > BULK_BYTES
        worker.window_ns, worker.window_bytes = worker.now_ns, 0
    if frames == 0 and worker.now_ns - before > STOLEN_NS:
        worker.no_spin_until_ns = worker.now_ns + NO_SPIN_NS


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


cdef inline void serve(Worker *worker) noexcept nogil:
    """Run until told to stop. The worker's own thread; see take_turn()."""
    take_turn(worker)
    while not worker.stopping:
        if worker.error:
            renew(worker)
        cancel_closing(worker)
        if worker.active != NULL or worker.pendings:
            run_round(worker)
            if worker.error:  # at once: it counts writes of lanes, and who closes one next may free it
                renew(worker)
            give_turn(worker)
            take_turn(worker)
            continue
        if not worker.kick_armed:
            worker.kick_armed = True
            take_sqe(worker, IORING_OP_POLL_ADD, worker.kick_fd, KICK).op_flags = POLLIN
        give_turn(worker)
        enter(worker, 1)
        take_turn(worker)
        reap(worker)
        worker.now_ns = clock_ns()
        if worker.now_ns - worker.window_ns >= WINDOW_NS:
            worker.bulk = False
    give_turn(worker)
