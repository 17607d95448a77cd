"""How a worker of the native engine sleeps: epoll watches its lanes' fds, and ppoll waits for the epoll instance.

Theory of operation. Every lane's fd is in the worker's epoll instance from the lane's creation to its close. A dry lane
is armed once (EPOLLONESHOT): the next frame makes the instance readable and disarms the lane. The worker sleeps in
ppoll(2) on the instance without the lock, and reads the instance's events with the lock. A thread that closes a lane
removes its fd from the instance under the same lock, so an event never names a closed lane. ppoll's timeout is in
nanoseconds on every kernel; epoll_wait's is in milliseconds, and epoll_pwait2 came with Linux 5.11.
"""

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport timespec

cdef extern from *:
    """
    #include <poll.h>
    #include <sys/epoll.h>
    #include <sys/prctl.h>
    """
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, PR_SET_TIMERSLACK
    uint32_t EPOLLIN, EPOLLERR, EPOLLONESHOT
    short POLLIN
    ctypedef union epoll_data_t:
        void *ptr
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    cdef struct pollfd:
        int fd
        short events, revents
    int epoll_create1(int flags) noexcept nogil
    int epoll_ctl(int epoll, int op, int fd, epoll_event *event) noexcept nogil
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout_ms) noexcept nogil
    int ppoll(pollfd *fds, unsigned long count, const timespec *timeout, const void *signals) noexcept nogil
    int prctl(int option, ...) noexcept nogil


cdef inline int watch(int epoll, int op, int fd, uint32_t events, void *who) noexcept nogil:
    """Add, change or remove an fd. Without EPOLLIN in events, it is not armed."""
    cdef epoll_event event
    event.events, event.data.ptr = events, who
    return epoll_ctl(epoll, op, fd, &event)


cdef inline bint sleep_until(int epoll, const timespec *timeout) noexcept nogil:
    """Wait until the instance is readable, or for timeout (NULL: no limit); return whether it is readable."""
    cdef pollfd one
    one.fd, one.events, one.revents = epoll, POLLIN, 0
    return ppoll(&one, 1, timeout, NULL) > 0
