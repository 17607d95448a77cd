"""What load a restart covers: python -m tests.benchmarks.restart [--kill] [--rings 1000,10000] (as root).

Numbered datagrams at rising rates, one restart of the service at each, until frames are missing: the sender's queue
holds so many of them. The longest gap between two that came is the time for which nothing was forwarded.
"""

from __future__ import annotations

import argparse
import statistics

from tests.lib.engines import ENGINE
from tests.lib.service import Service
from tests.lib.streams import Datagrams, Seen
from tests.lib.systemd_box import SystemdBox
from tests.lib.two_ends import back, make_pair

RATES = (250, 1000, 2000, 4000, 8000, 16000, 32000)


def once(service: Service, rate: int, *, kill: bool) -> Seen:
    """Send rate a second across one restart, or one kill."""
    datagrams, pid = Datagrams(service.box, rate), service.pid
    service.box.output(*(("kill", "-9", str(pid)) if kill else ("systemctl", "restart", "vethd.service")))
    back(service, pid)
    return datagrams.end()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--kill", action="store_true", help="kill -9 instead of a restart")
    parser.add_argument("--rings", default="1000,10000", help="ring of the sender, in frames, several with commas")
    args = parser.parse_args()
    print(f"{'kill -9' if args.kill else 'systemctl restart'}, engine {ENGINE}")
    print("| ring | datagrams a second | sent | missing | longest gap |\n|---|---|---|---|---|")
    with SystemdBox() as box:
        service = Service(box)
        make_pair(service)
        for length in args.rings.split(","):
            box.output("ip", "-n", "red", "link", "set", "va", "txqueuelen", length)
            for rate in RATES:
                seen = once(service, rate, kill=args.kill)
                print(f"| {length} | {rate} | {seen.sent} | {seen.missing} | {seen.gap_ms:.0f} ms |", flush=True)
                assert seen.late == 0, "frames came out of order"
                if seen.missing:
                    break
        logs = [line["forwarding_after_ms"] for line in service.log() if "forwarding_after_ms" in line]
    print(f"\nforwarding after {min(logs)} to {max(logs)} ms, in the middle {statistics.median(logs)}")


if __name__ == "__main__":
    main()
