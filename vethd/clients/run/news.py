"""What the supervisor remembers of callers' sockets: dumps to sift, and refusals to word. Children add to it by a pipe.

A child writes before it answers its caller, and the worker reads before it looks at the next call: so the worker knows
of a refusal before the caller can receive the kernel's answer.
"""

from __future__ import annotations

import posix
import struct

from vethd.clients.run import rtnl
from vethd.clients.run.answers import Refusal

_HEAD = struct.Struct("=QIiHH")
_RECORD_MAX = 4096  # PIPE_BUF: written as a whole
_KEPT = 1024

Key = tuple[int, int]
"""A socket's inode and a sequence number."""


class News:
    """The memory."""

    def __init__(self) -> None:
        """Make the pipe."""
        self._end, self._start = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self._dumps: dict[Key, None] = {}
        self._refusals: dict[Key, Refusal] = {}

    def dumps_veths(self, key: Key) -> None:
        """Remember that a dump of TAPs is to show veths alone."""
        _bound(self._dumps)
        self._dumps[key] = None

    def wants_veths(self, key: Key) -> bool:
        """Return whether a reply belongs to such a dump."""
        return key in self._dumps

    def tell(self, inode: int, refusal: Refusal) -> None:
        """Have the worker remember a refusal. For children. Raises OSError."""
        sequence = rtnl.Message(refusal.request).sequence
        text = refusal.text.encode("utf-8", "surrogateescape")[:512]
        request = refusal.request[: _RECORD_MAX - _HEAD.size - len(text)]
        posix.write(self._start, _HEAD.pack(inode, sequence, refusal.code, len(text), len(request)) + text + request)

    def take_refusal(self, key: Key) -> Refusal | None:
        """Return the refusal that belongs to an acknowledgement, once; None without."""
        return self._refusals.pop(key, None)

    def read(self) -> None:
        """Read what children have told."""
        try:
            data = posix.read(self._end, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            inode, sequence, code, text, request = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            words = data[at : at + text].decode("utf-8", "surrogateescape")
            _bound(self._refusals)
            self._refusals[inode, sequence] = Refusal(code, words, data[at + text : at + text + request])
            at += text + request


def _bound(memory: dict[Key, None] | dict[Key, Refusal]) -> None:
    while len(memory) >= _KEPT:
        del memory[next(iter(memory))]
