"""Ten restarts and ten kills in a row, under the real systemd, with three kinds of traffic under way all the time.

red [va 10.6.0.1] ---- vethd, restarted and killed ---- [vb 10.6.0.2] blue
"""

from __future__ import annotations

import pytest

from tests.lib.service import Service
from tests.lib.streams import Datagrams, Ping, Seen, Transfer
from tests.lib.systemd_box import systemd_box_fixture
from tests.lib.two_ends import back, identity, two_ends_fixture

__all__ = ["systemd_box_fixture", "two_ends_fixture"]

TIMES = 10
RATE = 250
HELD = 128  # frames a direction that a process may hold: a batch that was read, and the one being written


def storm(service: Service, *argv: str) -> tuple[Seen, tuple[int, int]]:
    """Do that TIMES times to the daemon (argv's "PID" is its), and prove what holds in any case."""
    box = service.box
    before, counted = identity(service), service.get("/v1/stats")
    datagrams, transfer, ping = Datagrams(box, RATE), Transfer(box), Ping(box)
    for _ in range(TIMES):
        pid = service.pid
        box.output(*(str(pid) if word == "PID" else word for word in argv))
        back(service, pid)
    seen, sent_and_came, pings = datagrams.end(), transfer.end(), ping.end()
    assert sent_and_came[0] == sent_and_came[1], "the TCP stream is another"
    assert seen.late == 0
    assert identity(service) == before
    for old, new in zip(counted, service.get("/v1/stats"), strict=True):
        engine = sum(count for reason, count in new["drops"].items() if "kernel" not in reason)
        assert new["read"] == new["forwarded"] + engine + new["in_flight"]
        assert new["read"] >= old["read"] + seen.sent * (new["name"] == "va")
        kernel = sum(count for reason, count in new["drops"].items() if "kernel" in reason)
        assert kernel == new["tx_dropped"]
    assert [line for line in service.log() if line["level"] in ("warning", "error")] == []
    starts = [line["forwarding_after_ms"] for line in service.log() if line["event"] == "started" and line["adopted"]]
    assert len(starts) == TIMES
    print(f"{argv[0]}: forwarding after {starts} ms; {seen}; ping {pings}")
    return seen, pings


@pytest.mark.heavy
def test_ten_restarts_lose_nothing(service: Service) -> None:
    seen, pings = storm(service, "systemctl", "restart", "vethd.service")
    assert (seen.missing, pings[0] - pings[1]) == (0, 0)


@pytest.mark.heavy
def test_ten_kills_lose_what_was_in_hand_at_most(service: Service) -> None:
    seen, pings = storm(service, "kill", "-9", "PID")
    assert seen.missing <= TIMES * HELD
    assert pings[0] - pings[1] <= TIMES * 2
