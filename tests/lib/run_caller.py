"""Speak rtnetlink in every way that programs do; run with kernel veth and under vethd-run, it prints the same.

python -m tests.lib.run_caller STEP ...
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tests.lib.rtnl import (
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    VETH_INFO_PEER,
    ifinfomsg,
    nest,
    text,
)

NLM_F_ECHO = 8
SOL_NETLINK, NETLINK_EXT_ACK = 270, 11
HEAD = struct.Struct("=IHHII")
NEW = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
BUFFER = 1 << 17
STORM_US = 300
STORM_PAIRS = 10


def message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """Return one message."""
    return HEAD.pack(HEAD.size + len(payload), kind, flags, sequence, 0) + payload


def veth(name: str, peer: str, *, sequence: int = 1, flags: int = NEW) -> bytes:
    """Return the request for a pair."""
    data = nest([(VETH_INFO_PEER, ifinfomsg() + nest([(IFLA_IFNAME, text(peer))]))])
    info = nest([(IFLA_INFO_KIND, b"veth"), (IFLA_INFO_DATA, data)])
    return message(RTM_NEWLINK, flags, sequence, ifinfomsg() + nest([(IFLA_IFNAME, text(name)), (IFLA_LINKINFO, info)]))


def delete(name: str, sequence: int = 2) -> bytes:
    """Return the request to delete a link."""
    flags = NLM_F_REQUEST | NLM_F_ACK
    return message(RTM_DELLINK, flags, sequence, ifinfomsg() + nest([(IFLA_IFNAME, text(name))]))


def rtnetlink(kind: int = socket.SOCK_RAW) -> socket.socket:
    """Return a new socket."""
    return socket.socket(socket.AF_NETLINK, kind, 0)


def heard(sock: socket.socket, count: int = 1) -> list[tuple[int, int, int]]:
    """Receive until count acknowledgements came; return each message's type, sequence number and errno."""
    found: list[tuple[int, int, int]] = []
    while sum(kind == NLMSG_ERROR for kind, _, _ in found) < count:
        data = sock.recv(BUFFER)
        while data:
            size, kind, _, sequence, _ = HEAD.unpack_from(data)
            code = -struct.unpack_from("=i", data, HEAD.size)[0] if kind == NLMSG_ERROR else 0
            found.append((kind, sequence, code))
            data = data[size + 3 & ~3 :]
    return found


def names() -> list[str]:
    """Return the names of the links here."""
    return sorted(name for _, name in socket.if_nameindex() if name != "lo")


def cleared(sock: socket.socket, name: str) -> list[tuple[int, int, int]]:
    """Delete a link, and return what was answered."""
    sock.send(delete(name))
    return heard(sock)


def sending() -> list[Any]:
    """Send in every way."""
    sock = rtnetlink()
    kernel = (0, 0)
    raw = struct.pack("=HxxII", socket.AF_NETLINK, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)

    def by_sendto(data: bytes, size: int) -> int:
        return int(libc.sendto(sock.fileno(), data, len(data), 0, raw.ljust(128, b"\0"), size))

    def by_sendmmsg(data: bytes) -> int:
        """Send it by sendmmsg(2)."""
        buffer = ctypes.create_string_buffer(data, len(data))
        iov = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(buffer), len(data)))
        header = struct.pack("=QIxxxxQQQQIxxxxI4x", 0, 0, ctypes.addressof(iov), 1, 0, 0, 0, 0)
        vector = ctypes.create_string_buffer(header, len(header))
        if libc.sendmmsg(sock.fileno(), vector, 1, 0) != 1:
            return -1
        return int(struct.unpack_from("=I", vector, 56)[0])

    def connected(data: bytes) -> int:
        sock.connect(kernel)
        return sock.send(data)

    ways: list[Callable[[bytes], int]] = [
        lambda data: sock.sendto(data, kernel),
        lambda data: by_sendto(data, 12),
        lambda data: by_sendto(data, 128),
        sock.send,
        lambda data: sock.sendmsg([data[:20], data[20:]], [], 0, kernel),
        lambda data: os.write(sock.fileno(), data),
        lambda data: os.writev(sock.fileno(), [data[:40], data[40:]]),
        by_sendmmsg,
        connected,
    ]
    result: list[Any] = []
    for number, way in enumerate(ways):
        request = veth(f"a{number}", f"b{number}", sequence=number + 5)
        result += [way(request) == len(request), heard(sock), names(), cleared(sock, f"a{number}"), names()]
    return result


def several() -> list[Any]:
    """Send several messages at once, one of them refused; ask for an echo, and for no acknowledgement."""
    sock = rtnetlink()
    sock.send(veth("a", "b", sequence=1) + veth("a", "c", sequence=2) + veth("d", "e", sequence=3))
    result: list[Any] = [heard(sock, 3), names()]
    sock.send(delete("a", 4) + delete("e", 5))
    result += [heard(sock, 2), names()]
    sock.send(veth("a", "b", flags=NEW | NLM_F_ECHO))
    result += [heard(sock), names()]
    sock.send(veth("c", "d", flags=NEW & ~NLM_F_ACK))
    result += [names(), cleared(sock, "a"), cleared(sock, "c"), cleared(sock, "nothing"), names()]
    return result


def extended() -> list[Any]:
    """Read what is said beside an errno."""
    sock = rtnetlink()
    sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    sock.send(veth("a", "b" * 20))
    long = sock.recv(BUFFER)
    sock.send(veth("a", "a"))
    return [b"policy" in long, struct.unpack_from("=i", long, 16)[0], heard(sock), names()]


def duplicates() -> list[Any]:
    """Use a socket by its duplicates."""
    result: list[Any] = []
    sock = rtnetlink()
    for number, copy in enumerate(
        (
            socket.socket(fileno=os.dup(sock.fileno())),
            socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)),
            sock.dup(),
        )
    ):
        copy.send(veth(f"a{number}", f"b{number}"))
        result += [heard(copy), os.get_inheritable(copy.fileno()), cleared(copy, f"a{number}"), names()]
        copy.close()
    return result


def flags() -> list[Any]:
    """Check that a socket is what was asked for."""
    result: list[Any] = []
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        for more in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK):
            fd = ctypes.CDLL(None).socket(socket.AF_NETLINK, kind | more, 0)
            sock = socket.socket(fileno=fd)
            kept = fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETFD)
            result.append((kept, sock.type, sock.family, sock.proto, select.select([], [fd], [], 0)[1] == [fd]))
            sock.close()
    return result


def dump() -> list[Any]:
    """Dump the links of kind veth."""
    sock = rtnetlink()
    sock.send(veth("a", "b"))
    result: list[Any] = [heard(sock)]
    asked = ifinfomsg() + nest([(IFLA_LINKINFO, nest([(IFLA_INFO_KIND, text("veth"))]))])
    sock.send(message(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 9, asked))
    kinds: list[int] = []
    while NLMSG_DONE not in kinds:
        data = sock.recv(BUFFER)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            kinds.append(kind)
            if kind == RTM_NEWLINK:
                result.append((b"veth\0" in data[:size], b"tun\0" in data[:size]))
            data = data[size + 3 & ~3 :]
    return [*result, kinds, cleared(sock, "a")]


def crowd() -> list[Any]:
    """Have 1,000 sockets, of which the last works, and 2,000 files, which can be read and written."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    with ExitStack() as stack:
        sockets = [stack.enter_context(rtnetlink()) for _ in range(1000)]
        numbers = {sock.fileno() for sock in sockets}
        for sock in (sockets[0], sockets[-1]):
            sock.send(message(RTM_GETLINK, NLM_F_REQUEST, 3, ifinfomsg(1)))
        result = [len(numbers), *(len(sock.recv(BUFFER)) > HEAD.size for sock in (sockets[0], sockets[-1]))]
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(buffering=0)) for _ in range(2000)]
        for number, file in enumerate(files):
            file.write(number.to_bytes(4, "big"))
            file.seek(0)
        read = [int.from_bytes(file.read(4), "big") for file in files]
        with rtnetlink() as sock:
            sock.send(message(RTM_GETLINK, NLM_F_REQUEST, 3, ifinfomsg(1)))
            result += [read == list(range(2000)), len(sock.recv(BUFFER)) > HEAD.size]
    return result


def threads() -> list[Any]:
    """Make pairs in several threads at once, while others open and close files."""
    answers: list[Any] = []
    over = threading.Event()

    def make(number: int) -> None:
        with rtnetlink() as sock:
            for turn in range(3):
                name = f"a{number}.{turn}"
                sock.send(veth(name, f"b{number}.{turn}"))
                answers.append(heard(sock))
                answers.append(cleared(sock, name))

    def churn() -> None:
        while not over.is_set():
            for fd in [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]:
                os.close(fd)

    makers = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    churners = [threading.Thread(target=churn) for _ in range(2)]
    for thread in (*makers, *churners):
        thread.start()
    for thread in makers:
        thread.join()
    over.set()
    for thread in churners:
        thread.join()
    return [sorted(answers), names()]


def storm() -> list[Any]:
    """Make pairs while a signal comes every 300 us, whose handler restarts the call."""
    sock = rtnetlink()
    count = 0

    def count_it(_number: int, _frame: object) -> None:
        nonlocal count
        count += 1

    signal.signal(signal.SIGALRM, count_it)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, STORM_US / 1e6, STORM_US / 1e6)
    result: list[Any] = []
    for number in range(STORM_PAIRS):
        sock.send(veth(f"a{number}", f"b{number}", sequence=number + 1))
        result.append(heard(sock))
    signal.setitimer(signal.ITIMER_REAL, 0)
    result += [names(), count > 0]
    for number in range(STORM_PAIRS):
        cleared(sock, f"a{number}")
    return [*result, names()]


def rights() -> list[Any]:
    """Ask as a user without the right."""
    sock = rtnetlink()
    result: list[Any] = []
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534)
        other = rtnetlink()
        for one in (sock, other):
            one.send(veth("a", "b"))
            os.write(1, json.dumps([heard(one)[-1][2] == errno.EPERM, names()]).encode() + b"\n")
        os._exit(0)
    os.waitpid(pid, 0)
    return [*result, names()]


def children() -> list[Any]:
    """List the children that we did not start."""
    try:
        return [os.waitpid(-1, os.WNOHANG)]
    except ChildProcessError:
        return []


STEPS: dict[str, Callable[[], list[Any]]] = {
    step.__name__: step
    for step in (sending, several, extended, duplicates, flags, dump, crowd, threads, storm, rights, children)
}


if __name__ == "__main__":
    for word in sys.argv[1:]:
        print(word, json.dumps(STEPS[word]()), flush=True)
