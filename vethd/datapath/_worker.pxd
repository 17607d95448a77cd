"""The native engine's thread: rounds of reads and writes, and how it waits between them.

Theory of operation. In a round the active lanes take turns: a lane reads up to `depth` frames, judges and coalesces
them, and writes those that it forwards, before the next lane's turn. Reads do not block (O_NONBLOCK). A lane that was
dry for spin_us is armed (_poll.pxd). If no lane is active, the thread sleeps.

A lane that read all the frames that it asked for asks for twice as many in its next turn; otherwise it asks for one
more than it read. It never asks for more than TURN_BYTES of frames of the size of its last ones. This is fair by frames
and by bytes. The lanes take turns in a circle. A round ends when every active lane has had its turn, or after BATCH
frames or TURN_BYTES; then the lock is released.

Urgent lanes (the latency queues) have a circle of their own. Each round begins with it, and then reads the other one.
The limits of a round apply to each circle alone, so neither can keep the other from being read.

Spinning makes replies to requests fast, but takes CPU from other threads. So the worker does not spin while more than
BULK_BYTES arrive in a millisecond: a sender of so much does not wait for single replies (TCP loses a fifth to a worker
that spins). A probe takes a microsecond or two: if one took STOLEN_NS, the thread was preempted, and it does not spin
for the next NO_SPIN_NS.

Interrupt moderation, as in NICs. If a lane were armed during a bulk flow, the sender of each super-frame would pay for
waking the thread. So a lane whose pair is bulk (in either direction) is not armed when it is dry. If no other lane is
active, the thread pauses instead, for pause_ns at most; a frame for any armed lane still wakes it at once. A lane
without a frame for MODERATED_NS is armed. The length of a pause adapts to the number of frames found after it
(adapt()), as in the kernel's DIM.

If more small frames arrive than the machine can process, the worker also pauses, to leave CPU to the receiver
(_overload.pxd).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport read

from vethd.datapath._lane cimport (
    ARMED, BATCH, TURN_BYTES, WINDOW_NS, Lane, Moved, Worker, activate, arm, bury, give_turn, latency_bucket, move, take_turn,
)
from vethd.datapath._overload cimport end_window, note_load, step_back
from vethd.datapath._poll cimport EPOLLERR, epoll_event, epoll_wait, sleep_until

cdef enum:
    BULK_BYTES = 128 << 10  # 1 Gbit/s
    STOLEN_NS = 30_000
    NO_SPIN_NS = 2_000_000
    MODERATED_NS = 200_000
    PAUSE_MIN_NS = 5_000
    EVENTS = 64


cdef inline int64_t clock_ns() noexcept nogil:
    """Return the monotonic time."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline uint32_t next_depth(uint32_t got, uint32_t asked, uint64_t size) noexcept nogil:
    """Return a lane's depth for its next turn, after it read got of the asked frames, size bytes in all."""
    cdef uint64_t most = min(<uint64_t>BATCH, <uint64_t>TURN_BYTES * got // (size | 1))
    cdef uint64_t depth = 2 * got if got == asked else got + 1
    return <uint32_t>max(<uint64_t>1, min(depth, most))


cdef inline bint in_bulk(Worker *worker, Lane *lane) noexcept nogil:
    """Return whether a lane had more than BULK_BYTES in this millisecond or in the last one."""
    return lane != NULL and lane.bulk and worker.now_ns - lane.last_ns < WINDOW_NS


cdef inline bint moderated(Worker *worker, Lane *lane) noexcept nogil:
    """Return whether a dry lane is read again after a pause, instead of being armed."""
    if not worker.moderation_ns or worker.now_ns - lane.last_ns >= MODERATED_NS:
        return False
    return in_bulk(worker, lane) or in_bulk(worker, lane.back)


cdef inline void count(Worker *worker, Lane *lane, uint64_t size) noexcept nogil:
    """Count the size bytes that a lane read, for itself and for the worker, and decide whether each is bulk."""
    if worker.now_ns - lane.window_ns >= WINDOW_NS:
        lane.bulk = lane.window_bytes > BULK_BYTES
        end_window(worker, lane)
        lane.window_ns, lane.window_bytes = worker.now_ns, 0
    lane.window_bytes += size
    worker.window_bytes += size
    if lane.window_bytes > BULK_BYTES:
        lane.bulk = True
    if worker.window_bytes > BULK_BYTES:
        worker.bulk = True


cdef inline Moved take(Worker *worker, Lane *lane) noexcept nogil:
    """Give a lane its turn, and decide whether it stays active."""
    cdef Moved moved
    cdef int64_t took_ns
    worker.now_ns = clock_ns()
    moved = move(worker, lane, lane.depth)
    if moved.frames:
        took_ns = clock_ns() - worker.now_ns
        lane.latency[latency_bucket(took_ns)] += moved.frames
        lane.latency_ns += took_ns * moved.frames
    note_load(lane, moved)
    if moved.gone:
        bury(worker, lane)
    elif moved.frames:
        lane.last_ns = worker.now_ns
        lane.depth = next_depth(moved.frames, lane.depth, moved.bytes)
        count(worker, lane, moved.bytes)
    elif moderated(worker, lane):
        lane.depth = 1
    elif worker.bulk or worker.now_ns - lane.last_ns >= worker.spin_ns or worker.now_ns < worker.no_spin_until_ns:
        arm(worker, lane)
    else:
        lane.depth = 1
    return moved


cdef inline uint32_t turns(Worker *worker, Lane **circle) noexcept nogil:
    """Give the lanes of a circle their turns; return the number of frames read."""
    cdef Lane *lane
    cdef Lane *last = circle[0].previous if circle[0] != NULL else NULL
    cdef Moved moved
    cdef uint32_t frames = 0
    cdef uint64_t size = 0
    while circle[0] != NULL and frames < BATCH and size < TURN_BYTES:
        lane = circle[0]
        circle[0] = lane.next
        moved = take(worker, lane)
        frames += moved.frames
        size += moved.bytes
        if lane == last:
            break
    return frames


cdef inline uint32_t run_round(Worker *worker) noexcept nogil:
    """Give active lanes their turns, urgent ones first; return the number of frames read."""
    cdef uint32_t frames
    cdef int64_t before = clock_ns()
    worker.now_ns = before
    worker.rounds += 1
    frames = turns(worker, &worker.urgent)
    frames += turns(worker, &worker.active)
    worker.now_ns = clock_ns()
    if worker.now_ns - worker.window_ns >= WINDOW_NS:
        worker.bulk = worker.window_bytes > BULK_BYTES
        step_back(worker)
        worker.window_ns, worker.window_bytes = worker.now_ns, 0
    if frames == 0 and worker.now_ns - before > STOLEN_NS:
        worker.no_spin_until_ns = worker.now_ns + NO_SPIN_NS
    return frames


cdef inline void deal(Worker *worker) noexcept nogil:
    """Activate the lanes that have frames; stop reading those whose devices are gone."""
    cdef epoll_event[EVENTS] events
    cdef uint64_t ignored
    cdef int found = epoll_wait(worker.epoll_fd, events, EVENTS, 0), i
    cdef Lane *lane
    for i in range(found):
        lane = <Lane *>events[i].data.ptr
        if lane == NULL:  # a kick; its reason is in the struct
            read(worker.kick_fd, &ignored, sizeof(ignored))
        elif lane.state == ARMED:
            if events[i].events & EPOLLERR:  # tun_chr_poll(): the device is no longer registered
                bury(worker, lane)
            else:
                activate(worker, lane)


cdef inline void adapt(Worker *worker, uint32_t frames) noexcept nogil:
    """Choose the next pause by the number of frames that the last one collected: more frames make it shorter."""
    if frames >= BATCH // 2:
        worker.pause_ns = min(worker.moderation_ns, max(<int64_t>PAUSE_MIN_NS, worker.pause_ns // 2))
    elif frames < BATCH // 8:
        worker.pause_ns = min(worker.moderation_ns, worker.pause_ns + PAUSE_MIN_NS)


cdef inline bint idle(Worker *worker) noexcept nogil:
    """Return whether no lane is active."""
    return worker.active == NULL and worker.urgent == NULL


cdef inline bint all_moderated(Worker *worker, Lane *first) noexcept nogil:
    """Return whether every lane of a circle may wait for a pause."""
    cdef Lane *lane = first
    while lane != NULL:
        if not moderated(worker, lane):
            return False
        lane = lane.next if lane.next != first else NULL
    return True


cdef inline void pause(Worker *worker, int64_t ns) noexcept nogil:
    """Sleep for ns at most; a frame for an armed lane ends the sleep."""
    cdef timespec wait
    cdef bint events
    cdef int64_t before = clock_ns()
    wait.tv_sec, wait.tv_nsec = 0, ns
    worker.pauses += 1
    give_turn(worker)
    events = sleep_until(worker.epoll_fd, &wait)
    take_turn(worker)
    worker.paused_ns += min(ns, clock_ns() - before)  # the rest was a wait for the CPU
    if events:
        deal(worker)


cdef inline void serve(Worker *worker) noexcept nogil:
    """Run until stopping is set. For the worker's own thread; see take_turn()."""
    cdef bint paused = False
    cdef uint32_t frames
    take_turn(worker)
    while not worker.stopping:
        if idle(worker):
            give_turn(worker)
            sleep_until(worker.epoll_fd, NULL)
            take_turn(worker)
            deal(worker)
            worker.now_ns = clock_ns()
            if worker.now_ns - worker.window_ns >= WINDOW_NS:
                worker.bulk = False
            worker.back_ns = 0
            paused = False
            continue
        frames = run_round(worker)
        if paused:
            adapt(worker, frames)
        paused = frames == 0 and not idle(worker)
        paused = paused and all_moderated(worker, worker.active) and all_moderated(worker, worker.urgent)
        if paused:
            pause(worker, worker.pause_ns)
        elif worker.back_ns:
            pause(worker, worker.back_ns)
        else:
            give_turn(worker)
            take_turn(worker)
            deal(worker)
    give_turn(worker)
