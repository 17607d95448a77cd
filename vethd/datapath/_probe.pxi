"""Checks whether the engine can run here."""


def probe() -> int:
    """Try what the engine needs: a ring, and reads on /dev/net/tun that do not wait. Return 0, or the errno of the failure.

    EOPNOTSUPP: the tun driver does not support RWF_NOWAIT (Linux 6.1's). EINVAL: io_uring has no READ (it needs 5.6). Blocks
    for microseconds.
    """
    cdef Ring ring
    cdef Sqe *sqe
    cdef Cqe *cqe
    cdef uint8_t[64] data
    cdef int result = ring_open(&ring, 4)
    cdef int fd
    if result < 0:
        return -result
    fd = open(b"/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK)
    if fd < 0:
        result = errno
    else:
        sqe = ring_sqe(&ring, IORING_OP_READ, fd, 0)
        sqe.addr, sqe.len, sqe.op_flags = <uint64_t>&data[0], sizeof(data), RWF_NOWAIT
        result = -ring_enter(&ring, 1)
        cqe = ring_cqe(&ring)
        if cqe == NULL:
            result = result or EIO
        elif cqe.res != -EBADFD:  # the result for a tun fd without a device
            result = -cqe.res if cqe.res < 0 else EIO
        close(fd)
    ring_close(&ring)
    return result
