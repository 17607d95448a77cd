"""Measure what a kill -9 and a start lose with `persist = true`: python -m tests.benchmarks.persist [--stop] (root).

Datagrams, one a millisecond, from va to vb; the daemon is killed (or stopped) and started at once, TURNS times.
Printed for each: how many are missing, the longest silence, and how far carrier_changes moved.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.lib.engines import ENGINES
from tests.lib.lab import Wire
from tests.lib.site import Site
from tests.lib.site import site as make_site
from tests.lib.wait import readable, wait_until

TURNS = 3
INTERVAL_S = 0.001
QUIET_S = 2.0
PORT = 7007


def turn(site: Site, wire: Wire, *, kill: bool) -> str:
    """Kill or stop and start once under traffic; return a line of the table."""
    make = partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    changes = wire.a.link.carrier_changes
    came: list[float] = []
    sent = 0
    end = threading.Event()
    with wire.a.netns.run(make) as sender, wire.b.netns.run(make) as receiver:
        receiver.bind(("10.9.0.2", PORT))

        def receive() -> None:
            while readable(receiver.fileno(), QUIET_S) or not end.is_set():
                receiver.recv(64)
                came.append(time.monotonic())

        def send() -> None:
            nonlocal sent
            while not end.wait(INTERVAL_S):
                sender.sendto(b"x", ("10.9.0.2", PORT))
                sent += 1

        threads = [threading.Thread(target=work) for work in (receive, send)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(came) > 200)
        (site.kill if kill else site.stop)()
        before = len(came)
        site.start()
        wait_until(lambda: len(came) > before + 200)
        end.set()
        for thread in reversed(threads):
            thread.join()
    gap = max(after - earlier for earlier, after in pairwise(came))
    moved = wire.a.link.carrier_changes - changes
    return f"{sent - len(came)} of {sent} missing, {gap * 1000:.0f} ms silent, carrier_changes + {moved}"


def main() -> None:
    """Measure both engines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stop", action="store_true", help="SIGTERM, not SIGKILL")
    kill = not parser.parse_args().stop
    for engine in ENGINES:
        with tempfile.TemporaryDirectory() as directory, make_site(Path(directory), engine) as (site, lab):
            site.configure("persist = true\n")
            site.start()
            a, b = lab.netns("a"), lab.netns("b")
            pair = site.post({"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name}})
            wire = lab.wire(a, b)
            wire.up()
            wire.addresses()
            for _ in range(TURNS):
                print(engine, turn(site, wire, kill=kill), flush=True)
            site.daemon.request("DELETE", f"/v1/pairs/{pair['id']}")


if __name__ == "__main__":
    main()
