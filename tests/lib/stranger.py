"""Somebody else: what a process of another uid does to vethd's sockets. tests/lib/others.py starts it and speaks to it.

    python -c SOURCE DIRECTORY SOCKET UID GID[,GID...]

One request a line on stdin, a JSON list of a method of Stranger and its arguments; one answer a line on stdout. It
begins as root, in DIRECTORY, and is UID from then on: neither the tests nor Python need be his to read, and so
it imports nothing of the tests, and all that it does at once. SOCKET is as seen from DIRECTORY.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import select
import socket
import struct
import sys
import threading
from contextlib import suppress
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS = 0x10000000, 0x40000000, 0x00020000
PR_SET_DUMPABLE = 4
NOTHING_S = 0.3  # how long a connection is looked at that should be let in, and has nothing to say
ANSWER_S = 20.0  # how long one is that should be refused
LINGER_S = 60
CLOSING_S = 10  # a close that takes as long is one that lingers

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    """Raise OSError where a call of the C library failed."""
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Stranger:
    """One of his file descriptors is known by a number, or by "home", "file" or "null"."""

    def __init__(self, path: str) -> None:
        """Talk to the daemon at path."""
        self.path = path
        self.idlers: list[socket.socket] = []
        self.threads: list[threading.Thread] = []

    def hold(self, nested: int = 0) -> list[int]:
        """Hold the network, user and mount namespace of a child that is gone: his, or nested so deep in one of his."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = os.fork()
            if child == 0:
                try:
                    self._make(nested, theirs)
                finally:
                    os._exit(0)
            theirs.close()
            _, fds, _, _ = socket.recv_fds(ours, 1, 3)
            os.waitpid(child, 0)
        return fds

    def _make(self, nested: int, out: socket.socket) -> None:
        uid, gid = os.geteuid(), os.getegid()
        for _ in range(nested + 1):
            checked(libc.unshare(CLONE_NEWUSER))
            checked(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))  # or /proc/self is not his
            for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                fd = os.open(f"/proc/self/{file}", os.O_WRONLY)
                os.write(fd, text.encode())
                os.close(fd)
            uid = gid = 0
        checked(libc.unshare(CLONE_NEWNET | CLONE_NEWNS))
        kinds = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "user", "mnt")]
        socket.send_fds(out, [b"x"], kinds)

    def fd(self, method: str, target: str, body: Any = None, handles: tuple[int | str, ...] = ()) -> Any:
        """Make a request with fds."""
        request = {"method": method, "path": target} | ({} if body is None else {"body": body})
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(self.path + ".fd")
            with suppress(BrokenPipeError):  # refused at the door
                socket.send_fds(sock, [json.dumps(request).encode()], [_opened(handle) for handle in handles])
            return list(json.loads(sock.recv(1 << 20)).values())

    def http(self, method: str, target: str, body: Any = None) -> Any:
        """Make a request over HTTP."""
        connection = http.client.HTTPConnection("vethd")
        with socket.socket(socket.AF_UNIX) as connection.sock:
            connection.sock.connect(self.path)
            with suppress(BrokenPipeError):  # refused at the door
                connection.request(method, target, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
            return [response.status, json.loads(text) if text.startswith(("{", "[")) else text]

    def listen(self, target: str) -> int:
        """Begin to read a stream."""
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(self.path)
        self.stream.send(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        self.idlers.append(self.stream)
        self.lines = self.stream.makefile()
        status = self.lines.readline().split()[1]
        while self.lines.readline().strip():
            pass
        return int(status)

    def hear(self, event: str) -> list[Any]:
        """Return the events up to the next of that name."""
        heard: list[Any] = []
        while not heard or heard[-1]["event"] != event:
            heard.append(json.loads(self.lines.readline()))
        return heard

    def idle(self, count: int) -> list[int]:
        """Connect count times to each socket and say nothing; count those that are answered all the same.

        That is waited for until it is as many as there should be no room for, count.
        """
        made: list[list[socket.socket]] = []
        answered: set[int] = set()
        poller = select.poll()

        def more(timeout_s: float) -> bool:
            new = {fd for fd, _ in poller.poll(timeout_s * 1000)}
            for fd in new:
                poller.unregister(fd)
            answered.update(new)
            return bool(new)

        for path, kind in ((self.path, socket.SOCK_STREAM), (self.path + ".fd", socket.SOCK_SEQPACKET)):
            made.append([socket.socket(socket.AF_UNIX, kind) for _ in range(count)])
            for sock in made[-1]:
                sock.connect(path)
                poller.register(sock, select.POLLIN)
            while more(NOTHING_S):
                pass
        while len(answered) < count and more(ANSWER_S):
            pass
        while more(NOTHING_S):
            pass
        self.idlers += made[0] + made[1]
        return [sum(sock.fileno() in answered for sock in socks) for socks in made]

    def tie(self, count: int) -> list[int]:
        """Make requests with a socket each, whose last holder is the daemon, and which takes LINGER_S to close.

        Where the daemon closes it before we do, the last holder is a thread of ours, and another one is made.
        """
        statuses: list[int] = []
        while len(statuses) < count:
            stuck = self._stuck()
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(self.path + ".fd")
                with suppress(BrokenPipeError):
                    socket.send_fds(sock, [b'{"method": "GET", "path": "/v1/health"}'], [stuck.fileno()])
                closing = threading.Thread(target=stuck.close, daemon=True)
                closing.start()
                status = json.loads(sock.recv(1 << 16))["status"]
            closing.join(CLOSING_S)
            if not closing.is_alive():
                statuses.append(status)
        return statuses

    def litter(self, how: str) -> None:
        """Send such sockets where nobody asks for them, and hang up; the last holder is the daemon.

        how: "second", in a second message; "many", more than a request may have; "http", on the control socket.
        """
        suffix, kind = ("", socket.SOCK_STREAM) if how == "http" else (".fd", socket.SOCK_SEQPACKET)
        found = [self._stuck() for _ in range(20 if how == "many" else 1)]
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.connect(self.path + suffix)
            with suppress(BrokenPipeError, PermissionError):
                if how == "second":
                    sock.send(b'{"method": "GET", "path": "/v1/health"}')
                socket.send_fds(sock, [b"GET /v1/health HTTP/1.1\r\n"], [one.fileno() for one in found])
        for one in found:
            self.threads.append(threading.Thread(target=one.close, daemon=True))
            self.threads[-1].start()

    def _stuck(self) -> socket.socket:
        """Return a socket that takes LINGER_S to close."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            stuck = socket.socket()
            stuck.connect(server.getsockname())
            self.idlers.append(server.accept()[0])  # who never reads
        stuck.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                stuck.send(bytes(1 << 16))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
        return stuck

    def quiet(self) -> None:
        """Close what idle(), tie() and litter() left open."""
        while self.idlers:
            self.idlers.pop().close()


def _opened(handle: int | str) -> int:
    if isinstance(handle, int):
        return handle
    return os.open({"home": "/proc/self/ns/net", "file": "/etc/passwd", "null": os.devnull}[handle], os.O_RDONLY)


def become(uid: int, gids: list[int]) -> None:
    """Be that user for good. A process that changed its uid owns not even its /proc unless it says so."""
    os.setgroups(gids)
    os.setresgid(gids[0], gids[0], gids[0])
    os.setresuid(uid, uid, uid)
    checked(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))


def main() -> None:
    """Serve until stdin ends."""
    directory, path, uid, gids = sys.argv[1:]
    os.chdir(directory)
    become(int(uid), [int(gid) for gid in gids.split(",")])
    stranger = Stranger(path)
    print("{}", flush=True)
    for line in sys.stdin:
        name, *args = json.loads(line)
        try:
            answer = {"ok": getattr(stranger, name)(*args)}
        except OSError as error:
            answer = {"errno": error.errno, "words": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
