"""The native engine's thread: rounds of writes and reads, each round in one system call.

Theory of operation. A round puts the last round's writes into the ring, then for every active lane as many reads as the lane
probably has frames, and enters the kernel once. All of them complete inline and in order, so no frame of a lane is ever
overtaken, and a written buffer is free again. The frames that were read are judged, coalesced, and left to the next round to be
written. Reads never wait (RWF_NOWAIT): a lane that was dry for spin_us gets a one-shot poll instead, and if no lane is active,
the thread sleeps in the kernel. Between rounds only polls are in the ring, so the loop's thread can read and write the same fds
itself, under the lock (drain()).

A lane gets twice as many reads in the next round if each of its reads got a frame, otherwise one more than it got frames, but
never more than TURN_BYTES hold frames of the last round's average size. That is fair by frames and by bytes, and the lanes
take turns in a circle.

Spinning helps requests that wait for an answer, and takes CPU time from other threads. So a worker does not spin while more than
BULK_BYTES arrive in a millisecond: a sender of that much does not wait for single answers (TCP loses a fifth of its rate to a
worker that spins). A round that finds no frame takes a microsecond or two: if one took more than STOLEN_NS, the thread was
preempted, and it does not spin for the next NO_SPIN_NS.

A plain worker is for tun drivers without RWF_NOWAIT, with which a read through the ring would wait. Its reads and writes are
separate system calls, in the same order, and its ring only polls. Everything else is the same.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from vethd.datapath._exchange cimport (
    KICK, POLLIN, READ, WRITE, arm, cancel_closing, enter, exchange, reap, renew, take_sqe,
)
from vethd.datapath._gro cimport Batch, Buffer, gro_begin, gro_end, gro_offer
from vethd.datapath._lane cimport (
    BATCH, FRAME_MAX, Lane, Worker, admit, bury, fatal, give_turn, read_buffer, release, take_turn, write_buffer,
)
from vethd.datapath._ring cimport IORING_OP_POLL_ADD, IORING_OP_READ, IORING_OP_WRITE, RWF_NOWAIT, Sqe

cdef enum:
    TURN_BYTES = 256 << 10  # four super-frames
    BULK_BYTES = 128 << 10  # 1 Gbit/s
    WINDOW_NS = 1_000_000
    STOLEN_NS = 30_000
    NO_SPIN_NS = 2_000_000


cdef struct Turn:  # a lane's share of a round
    Lane *lane
    uint32_t first, count


cdef inline int64_t clock_ns() noexcept nogil:
    """Read the monotonic clock."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline uint32_t ask(Worker *worker, Turn *turns, uint32_t *asked) noexcept nogil:
    """Put a round's writes and reads into the ring; return how many lanes have a turn. asked: the reads' buffers, in order."""
    cdef uint32_t lanes = 0, reads = 0, count, number, i
    cdef int got
    cdef Lane *lane
    cdef Sqe *sqe
    for i in range(worker.pendings):
        number = worker.pending[i]
        if worker.plain:
            write_buffer(worker, number)
            continue
        lane = <Lane *>worker.buffers[number].lane
        sqe = take_sqe(worker, IORING_OP_WRITE, lane.dst, <uint64_t>number << 3 | WRITE)
        sqe.addr, sqe.len, sqe.op_flags = <uint64_t>worker.buffers[number].data, worker.buffers[number].length, RWF_NOWAIT
    worker.outstanding += 0 if worker.plain else worker.pendings
    worker.pendings = 0
    lane = worker.active
    while lane != NULL and reads < BATCH:
        count = min(lane.depth, BATCH - reads)
        turns[lanes].lane, turns[lanes].first, turns[lanes].count = lane, reads, count
        lanes += 1
        got = 0
        for i in range(count):
            worker.frees -= 1
            number = worker.free[worker.frees]
            asked[reads] = number
            reads += 1
            if worker.plain:
                got = got if got < 0 else read_buffer(lane, &worker.buffers[number])  # once dry, it is not read again
                worker.buffers[number].got = got
                continue
            sqe = take_sqe(worker, IORING_OP_READ, lane.src, <uint64_t>number << 3 | READ)
            sqe.addr, sqe.len, sqe.op_flags = <uint64_t>worker.buffers[number].data, FRAME_MAX, RWF_NOWAIT
        lane = lane.next
        if lane == worker.active:
            break
    worker.active = lane
    worker.outstanding += 0 if worker.plain else reads
    return lanes


cdef inline uint32_t next_depth(uint32_t got, uint32_t asked, uint64_t size) noexcept nogil:
    """Return the number of a lane's reads in the next round, after got frames of size bytes in all."""
    cdef uint64_t most = min(<uint64_t>BATCH, <uint64_t>TURN_BYTES * got // (size | 1))
    cdef uint64_t depth = 2 * got if got == asked else got + 1
    return <uint32_t>max(<uint64_t>1, min(depth, most))


cdef inline uint32_t take(Worker *worker, Turn *turn, const uint32_t *asked) noexcept nogil:
    """Judge and coalesce the frames that a lane's reads returned; return their number. Accepted frames are pending then."""
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
    """Write the pending frames and read the waiting ones."""
    cdef Turn[BATCH] turns
    cdef uint32_t[BATCH] asked
    cdef uint32_t lanes = 0, i, frames = worker.pendings
    cdef int64_t before = clock_ns()
    if worker.plain:
        exchange(worker)  # first: frames read after it are judged, even if the ring fails
        if not worker.error:
            lanes = ask(worker, turns, asked)
    else:
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


cdef inline void serve(Worker *worker) noexcept nogil:
    """Run rounds until stop(), on the worker's own thread; see take_turn()."""
    take_turn(worker)
    while not worker.stopping:
        if worker.error:
            renew(worker)
        cancel_closing(worker)
        if worker.active != NULL or worker.pendings:
            run_round(worker)
            if worker.error:  # at once: it counts writes of lanes, and a lane that is closed next may be freed
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
