"""Start a program as systemd would, and under a supervisor of its system calls: python -m tests.lib.launch SOCKET ARGV.

It is told by SOCKET what to do, in one message of JSON: the names of the descriptors that come with it, the variables
to set, and whether to be supervised. Then it says, where it is to be, by which number the supervisor's descriptor is
found here, and becomes the program.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys

from tests.lib.seccomp import ask_about_all_but
from tests.lib.syscalls import FREE

FIRST_FD = 3  # SD_LISTEN_FDS_START
FDS_MAX = 253
PARKING = 300


def main() -> None:
    """Do as told, and exec."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(sys.argv[1])
    data, fds, _, _ = socket.recv_fds(sock, 1 << 16, FDS_MAX)
    told = json.loads(data)
    # what stands where they are to be goes out of the way first
    talk, *parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, PARKING) for fd in (sock.detach(), *fds)]
    os.closerange(FIRST_FD, PARKING)
    for place, fd in enumerate(parked, FIRST_FD):
        os.dup2(fd, place)
    os.environ |= told["environ"]
    if told["names"]:
        listen = {"LISTEN_PID": os.getpid(), "LISTEN_FDS": len(fds), "LISTEN_FDNAMES": ":".join(told["names"])}
        os.environ |= {key: str(value) for key, value in listen.items()}
    if told["supervised"]:
        number = ask_about_all_but(FREE)
        os.write(talk, f"{os.getpid()} {number}".encode())
        os.read(talk, 1)  # it is closed on exec, and so must be somebody's by then
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - a program, no command line


if __name__ == "__main__":
    main()
