"""Find the command lines of ip(8) that are for vethd, and exec the real ip at once for all others.

Theory of operation. The program is first on a PATH under the name `ip`, and most of its calls are not about a veth.
Every call runs this module and the modules that it imports (line.py, paths.py, process.py), so these import only posix
and sys. The rest of the room stays packed until one of these lines needs it:

    link add, link replace    if a word of the line is "veth"
    link delete, link show    if the daemon's socket exists
    -batch                    its lines are examined one by one

If iproute2 would reject a line, vethd-ip does not word the error itself: it passes the line to the real ip, without the
capability to change anything, which prints its own message (real.py). If the kernel would refuse a line, the daemon
returns the errno.
"""

import sys

from vethd.clients.ip.line import split, verb
from vethd.clients.paths import socket_path, there
from vethd.clients.process import become, restore_signals, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FAILED = 1


def main(real: str, unpack: "Callable[[], None]") -> int:
    """Run this process's command line and return its status; unpack makes the room's other modules importable."""
    line = split(sys.argv[1:])
    what = verb(line.words) if line is not None else ""
    if line is None or not (line.batch is not None or what):
        return become(real, sys.argv[1:])
    if line.batch is None and what in ("delete", "show") and not there(socket_path()):
        return become(real, sys.argv[1:])
    restore_signals()
    unpack()
    try:
        if line.batch is not None:
            from vethd.clients.ip.batch import run_batch  # noqa: PLC0415 - few calls need it

            return run_batch(real, line, line.batch)
        from vethd.clients.ip.roads import run  # noqa: PLC0415 - most calls do not need it

        return run(real, line)
    except OSError as error:  # stdout is closed or full, or no process can be made
        say(f"vethd-ip: {error.strerror}\n")
        return FAILED
