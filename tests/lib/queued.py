"""The frames that wait in a device's queues while its daemon is stopped, read by copies of the daemon's descriptors."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from pathlib import Path

from tests.lib.lab import End
from vethd.kernel.uapi import TUNGETVNETHDRSZ

SYS_PIDFD_GETFD = 438


def queued(pid: int, end: End) -> list[list[bytes]]:
    """Take the frames out of each queue, in order, from the Ethernet header on; queues are in no order."""
    found: list[list[bytes]] = []
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        for info in Path(f"/proc/{pid}/fdinfo").iterdir():
            if f"iff:\t{end.name}\n" not in info.read_text():
                continue
            fd = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(info.name), 0)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            with open(fd, "rb", 0) as queue:  # noqa: PTH123 - a descriptor
                begin = struct.unpack("i", fcntl.ioctl(fd, TUNGETVNETHDRSZ, bytes(4)))[0]
                frames: list[bytes] = []
                while frame := queue.read(1 << 17):
                    frames.append(frame[begin:])
            found.append(frames)
    finally:
        os.close(pidfd)
    return found
