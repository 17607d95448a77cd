"""Tells which command lines of ip(8) are vethd's; every other one becomes the real ip at once.

Theory of operation. This stands at the head of a PATH under the name `ip`, and most of what passes is not about a veth.
So this module and the ground floor that it stands on (line.py, paths.py, process.py), which every call runs, import
posix and sys alone, and the rest of the room stays packed until it is known to be needed:

    link add, link replace    with the word "veth" in it
    link delete, link show    while there is a daemon's socket
    -batch                    whose lines are looked at one by one

What iproute2 calls a mistake is never worded here: the real ip is given the line, without the right to change anything,
and says it in its own words (real.py). What the kernel refuses comes from the daemon as an errno.
"""

import sys

from vethd.clients.ip.line import split, verb
from vethd.clients.ip.process import become, restore_signals, say
from vethd.clients.paths import socket_path, there

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FAILED = 1


def main(real: str, unpack: "Callable[[], None]") -> int:
    """Run the command line of this process and return its status; unpack makes the room's other modules importable."""
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
            from vethd.clients.ip.batch import run_batch  # noqa: PLC0415 - one in a thousand

            return run_batch(real, line, line.batch)
        from vethd.clients.ip.roads import run  # noqa: PLC0415 - most calls need none of it

        return run(real, line)
    except OSError as error:  # stdout is closed or full, no process can be made
        say(f"vethd-ip: {error.strerror}\n")
        return FAILED
