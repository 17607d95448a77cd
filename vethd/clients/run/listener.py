"""The supervisor's end of seccomp user notification: struct seccomp_notif and the ioctls of seccomp_unotify(2)."""

from __future__ import annotations

import ctypes
import struct

from vethd.clients.run.calls import NAMES, failed, libc

_RECV, _SEND, _ADDFD, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40182103, 0x40082104  # SECCOMP_IOCTL_NOTIF_*
_SYNC_WAKE_UP = 1  # SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
_NOTIF = struct.Struct("=QIIiIQ6Q")
NOTIF_SIZE = _NOTIF.size
_RESPONSE = struct.Struct("=QqiI")
_ADD = struct.Struct("=QIIII")
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_SETFD = 1  # SECCOMP_ADDFD_FLAG_SETFD

_ioctl = libc.ioctl
_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


class Call:
    """One trapped system call. thread is the caller's thread id; args are its six arguments."""

    __slots__ = ("arch", "args", "id", "name", "thread")

    def __init__(self, data: bytes) -> None:
        self.id, self.thread, _, number, self.arch, _, *self.args = _NOTIF.unpack(data)
        self.name = NAMES.get((self.arch, number), "")


class Listener:
    """The descriptor on which trapped calls arrive."""

    def __init__(self, fd: int, memory: ctypes.Array[ctypes.c_char]) -> None:
        """Take the descriptor, which stays the caller's, and NOTIF_SIZE bytes of memory to receive into."""
        self.fd = fd
        self._memory = memory
        # caller and supervisor take turns on one CPU: to wake another one costs more (Linux 6.6, else EINVAL)
        _ioctl(fd, _SET_FLAGS, _SYNC_WAKE_UP)

    def receive(self) -> Call | None:
        """Return the next call; None if its caller was killed or interrupted meanwhile."""
        ctypes.memset(self._memory, 0, NOTIF_SIZE)  # the kernel requires zeros
        if _ioctl(self.fd, _RECV, self._memory):
            return None
        return Call(self._memory.raw)

    def answer(self, call_id: int, result: int) -> bool:
        """End a call with result, or with the errno -result if it is negative; return whether it still waited."""
        said = _RESPONSE.pack(call_id, 0, result, 0) if result < 0 else _RESPONSE.pack(call_id, result, 0, 0)
        return bool(_ioctl(self.fd, _SEND, said) == 0)

    def go_on(self, call_id: int) -> bool:
        """Let the kernel carry a call out as it is; return whether it still waited."""
        return bool(_ioctl(self.fd, _SEND, _RESPONSE.pack(call_id, 0, 0, _CONTINUE)) == 0)

    def give(self, call_id: int, fd: int, number: int, flags: int) -> None:
        """Put a duplicate of fd into the caller, under that number; flags 0 or O_CLOEXEC. Raises OSError."""
        if _ioctl(self.fd, _ADDFD, _ADD.pack(call_id, _SETFD, fd, number, flags)) < 0:
            raise failed()
