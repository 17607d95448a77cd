"""The supervisor of one program and its children: answers their trapped calls.

Theory of operation. The program runs under a seccomp filter (filter.py) that asks the supervisor about a few calls; the
calling thread waits. The supervisor makes every rtnetlink socket that the program wants, and gives it a reserved
number, by which the filter knows the later calls on it. On such a socket it looks at what is sent and received:

    a request for a new veth, or the deletion of a link    a child process asks the daemon, with the caller's rights,
                                                           then sends a substitute on the caller's socket (answers.py)
    a message that tells of a TAP                          a child process receives it in the caller's place, and shows
                                                           vethd's ends as veths (replies.py)
    all else                                               goes on, untouched

The worker, which runs this module, waits for nothing: whatever may take long is a child's. keeper.py starts the worker
again if it dies. What either does is done once, even if a signal interrupts the caller (table.py).
"""

from __future__ import annotations

import _socket
import errno
import posix
import select
import struct
from collections.abc import Callable

from vethd.clients.run import jobs, replies, rtnl, showing
from vethd.clients.run.acting import become, enter
from vethd.clients.run.caller import Caller
from vethd.clients.run.calls import WIDE, Socket
from vethd.clients.run.children import Children
from vethd.clients.run.filter import F_DUPFD_CLOEXEC
from vethd.clients.run.listener import Call, Listener
from vethd.clients.run.memory import MSG_PEEK, room, sent, taken, unwrap
from vethd.clients.run.news import News
from vethd.clients.run.numbers import choose
from vethd.clients.run.table import Table

_SOCK_CLOEXEC = posix.O_CLOEXEC
_MSG_ERRQUEUE = 0x2000
_CHANGES = (rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK)


class Supervisor:
    """The worker: receives trapped calls and answers them, until nobody is left who could make one."""

    def __init__(self, listener: Listener, table: Table, log: Callable[[str], None]) -> None:
        """Answer on listener; log takes a line."""
        self._listener = listener
        self._table = table
        self._log = log
        self._poller = select.epoll()
        self._children = Children(listener, table, log, self._poller)
        self._home = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
        self._news = News()
        self._told = -1  # the process that the log told of last
        self._handlers = {
            "socket": self._socket,
            "dup": self._duplicate,
            "fcntl": self._duplicate,
            "ioctl": self._ioctl,
            **dict.fromkeys(("sendto", "sendmsg", "sendmmsg", "write", "writev"), self._send),
            **dict.fromkeys(("recvfrom", "recvmsg", "read"), self._receive),
        }

    def run(self) -> None:
        """Answer calls until the last process under the filter has ended."""
        self._poller.register(self._listener.fd, select.EPOLLIN)
        while True:
            for fd, events in self._poller.poll():
                if fd != self._listener.fd:
                    self._children.bury(fd)
                elif events & select.EPOLLIN:
                    self._one()
                elif events & select.EPOLLHUP:
                    return

    def _one(self) -> None:
        call = self._listener.receive()
        if call is None:
            return
        self._news.read()
        try:
            with Caller(call.thread) as caller:
                self._handle(call, caller)
        except (OSError, struct.error) as error:  # the caller is gone, not ours to look at, or has passed nonsense
            self._log(f"{call.name} of {call.thread}: {error}")
            self._listener.go_on(call.id)
        self._table.done()

    def _handle(self, call: Call, caller: Caller) -> None:
        if not call.name:
            unwrap(call, caller)
        handler = self._handlers.get(call.name)
        if handler is None:
            self._listener.go_on(call.id)
        else:
            handler(call, caller)

    # --- sockets and their numbers

    def _socket(self, call: Call, caller: Caller) -> None:
        """Make the socket where the caller is, and give it a reserved number."""
        number = self._number(caller)
        if number is None:
            if caller.pid != self._told:
                self._log(
                    f"process {caller.pid}: no reserved number is free: its next rtnetlink sockets are not watched"
                )
                self._told = caller.pid
            self._listener.go_on(call.id)
            return
        kind = call.args[1]
        if not caller.same("user"):

            def made() -> int:
                become(caller)
                return self._given_there(call, caller, kind, number)

            self._children.start(call, caller, made, number)
        elif caller.same("net"):
            self._children.answer(call.id, self._given(call, kind, number))
        else:
            try:
                result = self._given_there(call, caller, kind, number)
            finally:
                enter(self._home)
            self._children.answer(call.id, result)

    def _given_there(self, call: Call, caller: Caller, kind: int, number: int) -> int:
        """Move this process to the caller's network namespace, and make the socket there."""
        there = caller.namespace("net")
        try:
            enter(there)
        finally:
            posix.close(there)
        return self._given(call, kind, number)

    def _given(self, call: Call, kind: int, number: int) -> int:
        """Make a socket in this process's network namespace, and give it to the caller; return the call's result."""
        try:
            sock = Socket(_socket.AF_NETLINK, kind & 0xFFFFFFFF | _SOCK_CLOEXEC, 0)
        except OSError as error:
            return -(error.errno or errno.EIO)
        with sock:
            self._listener.give(call.id, sock.fileno(), number, kind & _SOCK_CLOEXEC)
        return number

    def _duplicate(self, call: Call, caller: Caller) -> None:
        """Have dup(2) and fcntl(F_DUPFD) of an rtnetlink socket stay within the reserved numbers."""
        sock = caller.socket(call.args[0])
        least = call.args[2] if call.name == "fcntl" else 0
        number = self._number(caller, least) if sock is not None else None
        if sock is None or number is None:
            self._listener.go_on(call.id)
            return
        closes = call.name == "fcntl" and call.args[1] == F_DUPFD_CLOEXEC
        with sock:
            self._listener.give(call.id, sock.fileno(), number, _SOCK_CLOEXEC if closes else 0)
        self._children.answer(call.id, number)

    def _number(self, caller: Caller, least: int = 0) -> int | None:
        return choose(caller.descriptors() | self._children.pending(caller), caller.limit(), least)

    # --- messages

    def _send(self, call: Call, caller: Caller) -> None:
        """Look at what is sent."""
        data = sent(call, caller)
        if len(data) >= rtnl.HEAD.size and not _looked_at(data):
            self._listener.go_on(call.id)
            return
        try:
            messages = rtnl.split(data)
            filtered = len(messages) == 1 and replies.filtered_by_kind(messages[0])
            ours = any(jobs.concerns(message) for message in messages)
        except rtnl.MalformedError:
            filtered = ours = False
        sock = caller.socket(call.args[0]) if filtered or ours else None
        if sock is None:
            self._listener.go_on(call.id)
            return
        with sock:
            if filtered:
                self._children.answer(call.id, self._filter(call, caller, sock, messages[0]))
                return
            inode = posix.fstat(sock.fileno()).st_ino

            def job() -> int | None:
                sender = jobs.Sender(sock, caller, lambda refusal: self._news.tell(inode, refusal))
                return taken(call, caller, len(data)) if sender.send(messages) else None

            self._children.start(call, caller, job, message=data)

    def _filter(self, call: Call, caller: Caller, sock: Socket, message: rtnl.Message) -> int:
        """Ask the kernel for TAPs where the caller asks for veths; the replies are sifted."""
        self._news.dumps_veths((posix.fstat(sock.fileno()).st_ino, message.sequence))
        try:
            sock.sendto(replies.of_taps(message), (0, 0))
        except OSError as error:
            return -(error.errno or errno.EIO)
        return taken(call, caller, len(message.data))

    def _receive(self, call: Call, caller: Caller) -> None:
        """Look at what waits to be received."""
        flags = {"recvfrom": call.args[3], "recvmsg": call.args[2]}.get(call.name, 0)
        unchanged = call.arch not in WIDE or flags & (MSG_PEEK | _MSG_ERRQUEUE)
        sock = None if unchanged else caller.socket(call.args[0])
        if sock is None:
            self._listener.go_on(call.id)
            return
        with sock:
            try:
                data = sock.recv(room(call, caller), _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
                messages = rtnl.split(data)
                taps = replies.shows_taps(messages)
            except (OSError, rtnl.MalformedError):  # there is nothing yet, or an error that is the caller's to read
                messages, taps = [], False
            key = (posix.fstat(sock.fileno()).st_ino, messages[0].sequence) if messages else (0, 0)
            refusal = self._news.take_refusal(key) if messages and messages[0].kind == rtnl.NLMSG_ERROR else None
            if refusal is not None:
                self._children.answer(call.id, showing.receive_refusal(call, sock, caller, refusal))
            elif taps:
                only = self._news.wants_veths(key)
                self._children.start(call, caller, lambda: showing.receive(call, sock, caller, flags, only_veths=only))
            else:
                self._listener.go_on(call.id)

    def _ioctl(self, call: Call, caller: Caller) -> None:
        """Look at an ethtool request."""
        if call.arch not in WIDE:
            self._listener.go_on(call.id)
            return
        _, address = struct.unpack("=16sQ", caller.read(call.args[2], 24))
        (command,) = struct.unpack("=I", caller.read(address, 4))
        if command not in showing.SHOWN:
            self._listener.go_on(call.id)
            return
        sock = Socket(fileno=caller.take(call.args[0]))
        with sock:
            self._children.start(call, caller, lambda: showing.ethtool(call, sock, caller))


def _looked_at(data: bytes) -> bool:
    """Return whether what is sent may be for vethd, by its first header: most of it is not, and needs no parsing."""
    size, kind, flags, _, _ = rtnl.HEAD.unpack_from(data)
    if rtnl.aligned(size) < len(data):  # more messages follow
        return True
    return kind in _CHANGES or (kind == rtnl.RTM_GETLINK and flags & rtnl.NLM_F_DUMP == rtnl.NLM_F_DUMP)
