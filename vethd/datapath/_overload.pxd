"""The native engine under overload: the worker leaves CPU to the receiver.

Theory of operation. If a sender sends more small frames than the machine can process, a worker that takes all the CPU
it can get forwards frames that the receiver has no time to read: they overflow the receiver's socket, and the more is
sent, the less arrives (receive livelock). With the kernel's veth the sender itself does the receiver's work, which
slows it down.

A lane is overloaded if, for a millisecond, it read at least OVERLOAD_FRAMES and never ran dry. While a lane is, the
worker checks once a millisecond how long it waited for a CPU: the time that passed, without its own CPU time and its
pauses. If it waited more than a quarter of the time, other threads need the CPU, and the pause after each round becomes
longer by BACK_STEP_NS, up to BACK_MAX_NS; otherwise it becomes an eighth shorter. So the worker uses the CPU time that
the others leave. Excess frames are dropped where that costs least, at the full ring of the sender's device. A frame for
an armed lane ends a pause at once, as always.

A nice value would do the same with less code, but to lower it again needs CAP_SYS_NICE, and the kernel compares nice
values only within one cgroup or autogroup.
"""

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from vethd.datapath._lane cimport WINDOW_NS, Lane, Moved, Worker

cdef enum:
    OVERLOAD_FRAMES = 100  # a millisecond
    BACK_STEP_NS = 5_000
    BACK_MAX_NS = 200_000


cdef inline void note_load(Lane *lane, Moved moved) noexcept nogil:
    """Count a turn in the lane's running millisecond."""
    lane.window_frames += moved.frames
    lane.window_dry = lane.window_dry or moved.dry


cdef inline void end_window(Worker *worker, Lane *lane) noexcept nogil:
    """End the lane's running millisecond: was it overloaded?"""
    if lane.window_frames >= OVERLOAD_FRAMES and not lane.window_dry:
        worker.overload_ns = worker.now_ns
    lane.window_frames, lane.window_dry = 0, False


cdef inline void step_back(Worker *worker) noexcept nogil:
    """At the end of the worker's millisecond, choose the pause after each round of the next one."""
    cdef timespec used
    cdef int64_t cpu_ns, took_ns, waited_ns
    if not worker.moderation_ns or worker.now_ns - worker.overload_ns >= 2 * WINDOW_NS:
        worker.back_ns = worker.cpu_ns = 0
        return
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used)
    cpu_ns = <int64_t>used.tv_sec * 1_000_000_000 + used.tv_nsec
    if worker.cpu_ns:  # otherwise the overload began in this millisecond
        took_ns = worker.now_ns - worker.window_ns
        waited_ns = took_ns - (cpu_ns - worker.cpu_ns) - worker.paused_ns
        if waited_ns > took_ns // 4:
            worker.back_ns = min(<int64_t>BACK_MAX_NS, worker.back_ns + BACK_STEP_NS)
        else:
            worker.back_ns -= worker.back_ns // 8
    worker.cpu_ns, worker.paused_ns = cpu_ns, 0
