"""Callers of the control socket that misbehave, or only listen: nobody waits for them, least of all the datapath."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from tests.lib.daemon import UnixConnection
from tests.lib.lab import Lab, Wire
from tests.lib.site import Site
from tests.lib.sockets import exchange, udp_pair
from tests.lib.wait import DEADLINE_S, wait_until
from vethd.model.api import PairEvent


@pytest.fixture
def live(lab: Lab) -> tuple[Wire, tuple[str, str]]:
    """Return a pair that forwards, and its addresses."""
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.up()
    return wire, wire.addresses()


def get(site: Site, path: str) -> tuple[int, Any]:
    return site.daemon.request("GET", path)


HALVES = [
    b"",
    b"POST /v1/pairs HT",
    b"POST /v1/pairs HTTP/1.1\r\nHost: x\r\nContent-Len",
    b'POST /v1/pairs HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"name": ',
    b'POST /v1/pairs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"na',
]


def test_half_a_request_and_silence_stalls_nobody(site: Site, live: tuple[Wire, tuple[str, str]]) -> None:
    wire, (near, far) = live
    mute = []
    try:
        for half in HALVES * 4:
            sock = socket.socket(socket.AF_UNIX)
            mute.append(sock)
            sock.connect(str(site.socket))
            sock.sendall(half)
        with udp_pair(wire.a.netns, near, wire.b.netns, far) as (left, right):
            for n in range(50):
                exchange(left, right, b"%d" % n)
                if n % 10 == 0:
                    assert get(site, "/v1/health")[0] == 200
    finally:
        for sock in mute:
            sock.close()
    stats = get(site, "/v1/links/va/stats")[1]
    assert sum(stats["drops"].values()) == 0


CHUNKED = b"POST /v1/pairs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP = b"POST /v1/pairs HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"
JUNK = [
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET\r\n\r\n",
    b"\r\n" * 100,
    b"A" * 70000,
    CHUNKED + b"zz\r\n{}\r\n",
    CHUNKED + b"2\r\n{}{}{}\r\n",
    GZIP,
]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk[:8] + junk[-8:]))
def test_what_is_no_http_is_hung_up_on(site: Site, junk: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(site.socket))
        with suppress(BrokenPipeError, ConnectionResetError):  # before it took all of it
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
    assert get(site, "/v1/health")[0] == 200


def test_caller_that_hangs_up_is_served_no_half(site: Site, lab: Lab) -> None:
    """Who asks for a pair and leaves may get it or not, but whole."""
    a, b = lab.netns("a"), lab.netns("b")
    body = json.dumps({"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name}}).encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(site.socket))
        sock.sendall(b"POST /v1/pairs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def settled() -> bool:
        health = get(site, "/v1/health")[1]
        return health["waiting"] == 0 and (len(a.names()), len(b.names())) == (health["pairs"], health["pairs"])

    wait_until(settled)


PARTS, PART = 5, 1000  # events: what a socket holds, what the connection holds, a listener's backlog, and more


class Events:
    """GET /v1/events, line by line."""

    def __init__(self, site: Site) -> None:
        self.connection = UnixConnection(site.socket)
        self.connection.request("GET", "/v1/events")
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        assert self.response.getheader("Content-Type") == "application/x-ndjson"

    def next(self) -> PairEvent:
        return msgspec.json.decode(self.response.readline(), type=PairEvent)

    def until(self, name: str) -> list[PairEvent]:
        """Return the events up to the next of that name."""
        seen = [self.next()]
        while seen[-1].event != name:
            seen.append(self.next())
        return seen

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def test_events_tell_a_pair_s_life(site: Site, lab: Lab) -> None:
    events = Events(site)
    before = time.time()
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    made = events.until("pair_created")[-1]
    wire.up()
    up = events.until("carrier_on") + events.until("link_up")
    assert {(event.event, event.link, event.netns) for event in up} >= {
        ("link_up", "va", wire.a.netns.name),
        ("link_up", "vb", wire.b.netns.name),
    }
    wire.b.set("name vz")
    assert events.until("link_renamed")[-1].detail == "vb -> vz"
    wire.a.down()
    off = events.until("carrier_off")
    assert "link_down" in [event.event for event in (*off, events.next())]
    wire.a.netns.ip("link del va")
    gone = events.until("pair_deleted")
    assert "link_gone" in [event.event for event in gone]
    assert {event.pair for event in (made, *up, *off, *gone)} == {made.pair}
    assert before <= made.time <= time.time()
    events.close()


def test_events_are_counted_without_a_gap(site: Site, lab: Lab) -> None:
    first, second = Events(site), Events(site)
    wire = lab.pair(lab.netns(), lab.netns())
    for n in range(100):
        wire.a.set(f"mtu {1400 + n}")
    wire.a.netns.ip("link del va")
    heard = [events.until("pair_deleted") for events in (first, second)]
    assert heard[0] == heard[1]
    assert [event.seq for event in heard[0]] == list(range(heard[0][0].seq, heard[0][-1].seq + 1))
    mtus = [event.detail for event in heard[0] if event.detail.startswith("mtu ")]
    assert mtus == [f"mtu {1400 + n}" for n in range(100)]
    first.close()
    second.close()


def test_listener_that_never_reads(site: Site, live: tuple[Wire, tuple[str, str]]) -> None:
    """It costs a bounded backlog and nobody's time; when it reads at last it hears that it missed something."""
    wire, (near, far) = live
    deaf, quick = Events(site), Events(site)
    with udp_pair(wire.a.netns, near, wire.b.netns, far) as (left, right):
        for _ in range(PARTS):
            wire.a.netns.ip(*(f"link set dev va mtu {1400 + n % 2}" for n in range(PART)))
            exchange(left, right, b"still here")
            assert get(site, "/v1/health")[0] == 200
            assert {quick.next().event for _ in range(PART)} == {"link_changed"}
    wire.b.set("name last")
    last = quick.until("link_renamed")[-1]
    deaf_heard = deaf.until("link_renamed")
    lost = [event for event in deaf_heard if event.event == "overflow"]
    assert lost
    assert len(deaf_heard) < PARTS * PART
    assert deaf_heard[-1] == last, "the newest are there"
    deaf.close()
    quick.close()


def test_listeners_that_left_are_forgotten(site: Site, lab: Lab) -> None:
    for _ in range(20):
        Events(site).close()
    lab.pair(lab.netns(), lab.netns())
    # leftovers, when the bench is cleared, prove that their sockets are closed


def test_http_client_may_go_away_in_the_middle_of_a_reply(site: Site, lab: Lab) -> None:
    lab.pair(lab.netns(), lab.netns())
    for path in ("/v1/stats", "/metrics", "/v1/openapi.json"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(site.socket))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert get(site, "/v1/health")[0] == 200
