"""The arguments of a trapped send or receive call, read from the caller's memory by its architecture's layout."""

from __future__ import annotations

import struct

from vethd.clients.run.caller import Caller
from vethd.clients.run.calls import WIDE
from vethd.clients.run.filter import SOCKETCALLS
from vethd.clients.run.listener import Call

MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT = 2, 0x20, 0x40
_PIECES_MAX = 1024  # UIO_MAXIOV
_ROOM_MAX = 1 << 18  # the kernel's datagrams have at most 32 KB

Piece = tuple[int, int]
"""An address and a number of bytes."""


class Layout:
    """The C structures of an architecture."""

    def __init__(self, *, wide: bool) -> None:
        # struct msghdr: name, namelen, iov, iovlen, control, controllen, flags
        self.msghdr = struct.Struct("=QIxxxxQQQQIxxxx" if wide else "=7I")
        self.iovec = struct.Struct("=QQ" if wide else "=II")


_LAYOUTS = {wide: Layout(wide=wide) for wide in (True, False)}


def layout(call: Call) -> Layout:
    """Return the layout of a call's caller."""
    return _LAYOUTS[call.arch in WIDE]


def unwrap(call: Call, caller: Caller) -> None:
    """Turn i386's socketcall(2) into the call that it stands for. Raises OSError."""
    name = SOCKETCALLS.get(call.args[0], "")
    call.args = [*struct.unpack("=6I", caller.read(call.args[1], 24))]
    call.name = name


def sent(call: Call, caller: Caller) -> bytes:
    """Return what a send call sends; of sendmmsg the first message. Raises OSError."""
    return b"".join(caller.read(address, size) for address, size in pieces(call, caller) if size)


def taken(call: Call, caller: Caller, size: int) -> int:
    """Return the result of a send call that sent so many bytes. Raises OSError.

    sendmmsg sends its first message alone, as it may: the caller sends the others by its next call.
    """
    if call.name != "sendmmsg":
        return size
    caller.write(call.args[1] + layout(call).msghdr.size, struct.pack("=I", size))  # struct mmsghdr
    return 1


def pieces(call: Call, caller: Caller) -> list[Piece]:
    """Return where the data of a send or receive call are. Raises OSError."""
    if call.name in ("sendto", "write", "recvfrom", "read"):
        return [(call.args[1], call.args[2])]
    if call.name == "writev":
        return _iovec(call, caller, call.args[1], call.args[2])
    _, _, iov, count, *_ = msghdr(call, caller)
    return _iovec(call, caller, iov, count)


def room(call: Call, caller: Caller) -> int:
    """Return how many bytes a receive call has room for. Raises OSError.

    Nobody may receive with more room in the caller's place: the kernel makes later datagrams of a dump as long as the
    most room that it has seen (netlink_recvmsg(), max_recvmsg_len), and the caller could not receive them.
    """
    return min(sum(size for _, size in pieces(call, caller)), _ROOM_MAX)


def msghdr(call: Call, caller: Caller) -> tuple[int, ...]:
    """Return the struct msghdr of sendmsg, sendmmsg or recvmsg. Raises OSError."""
    form = layout(call).msghdr
    return form.unpack(caller.read(call.args[1], form.size))


def _iovec(call: Call, caller: Caller, address: int, count: int) -> list[Piece]:
    form = layout(call).iovec
    if not 0 < count <= _PIECES_MAX:
        return []
    return [(start, size) for start, size in form.iter_unpack(caller.read(address, count * form.size))]


def delivered(call: Call, caller: Caller, data: bytes, control: bytes, *, peek_length: bool) -> int:
    """Put a received message where the caller wants it, and return the call's result. Raises OSError.

    control is the ancillary data, packed; peek_length: the caller gave MSG_TRUNC, so the result is the whole length.
    """
    at = 0
    for address, size in pieces(call, caller):
        part = data[at : at + size]
        caller.write(address, part)
        at += len(part)
    short = at < len(data)
    if call.name == "recvmsg":
        _, namelen, _, _, address, space, _ = header = list(msghdr(call, caller))
        if header[0]:
            caller.write(header[0], _KERNEL[:namelen])
        caller.write(address, control[:space])
        form = layout(call).msghdr
        header[1], header[5] = len(_KERNEL) if header[0] else namelen, min(len(control), space)
        header[6] = MSG_TRUNC if short else 0
        caller.write(call.args[1], form.pack(*header))
    elif call.name == "recvfrom" and call.args[4] and call.args[5]:
        (space,) = struct.unpack("=I", caller.read(call.args[5], 4))
        caller.write(call.args[4], _KERNEL[:space])
        caller.write(call.args[5], struct.pack("=I", len(_KERNEL)))
    return len(data) if peek_length else at


_KERNEL = struct.pack("=HxxII", 16, 0, 0)  # struct sockaddr_nl: the kernel
