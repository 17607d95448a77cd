"""Troubles that a daemon may have with one pair, one caller or its machine; each sees that it is met as it should be.

What they may not do is show in the traffic of another pair: tests/system/test_isolation.py runs them beside one. Each
gives in words what it did.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from tests.lib.daemon import UnixConnection
from tests.lib.lab import Lab, Wire
from tests.lib.netns import Netns, command
from tests.lib.site import FdCall, Site, fd_call
from tests.lib.wait import DEADLINE_S, wait_until
from vethd.model.spec import LinkSpec

CLIENTS = 1000  # on each socket
GIGABYTE = 1 << 30  # is announced
ENOUGH = 200 << 20  # of it is sent: what kept it would have kept that
CHUNK = bytes(1 << 20)
GROWTH_KB = 64 << 10  # what the daemon may grow by, whoever asks for whatever
FDS_FREE = 12  # enough to answer, too few for many pairs
ROUNDS = 5
NEWS = 4000


def rss_kb(site: Site) -> int:
    """Return the daemon's resident memory."""
    status = Path(f"/proc/{site.daemon.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def served(site: Site) -> float:
    """See that both sockets answer; give after how many seconds."""
    begin = time.monotonic()
    assert site.daemon.request("GET", "/v1/health")[0] == 200
    assert fd_call(site.socket, "GET", "/v1/health")[0] == 200
    after = time.monotonic() - begin
    assert after < DEADLINE_S
    return after


def gone(wire: Wire) -> None:
    """Wait for the end of both ends."""
    wait_until(lambda: not any(end.netns.exists and end.exists for end in (wire.a, wire.b)), what="both gone")


def refusals(site: Site, lab: Lab) -> str:
    """Names that are taken, at either end, and namespaces that are not there."""
    wire = lab.pair(lab.netns(), lab.netns())
    other = lab.netns()
    for near, far in ((wire.a.netns, other), (other, wire.b.netns)):
        for _ in range(ROUNDS):
            status, body = site.daemon.request("POST", "/v1/pairs", msgspec.json.encode(lab.spec(near, far)))
            assert (status, body["code"]) == (409, "EEXIST")
    body = site.daemon.request("POST", "/v1/pairs", b'{"name": "va", "netns": "no-such", "peer": {"name": "vb"}}')[1]
    assert body["code"] == "ENOENT"
    assert other.names() == set()
    lab.backend.dellink("va", wire.a.netns.name)
    return f"{2 * ROUNDS + 1} births refused"


def deaths(_site: Site, lab: Lab) -> str:
    """Ends that are deleted, moved and renamed, and namespaces that die, one after the other."""
    for n in range(ROUNDS):
        wire = lab.pair(lab.netns(), lab.netns())
        wire.up()
        elsewhere = lab.netns()
        wire.b.set(f"netns {elsewhere.name} name vz")
        wire.b.netns, wire.b.name = elsewhere, "vz"
        if n % 2:
            wire.b.netns.ip("link del vz")
        else:
            wire.b.netns.delete()
        gone(wire)
    return f"{ROUNDS} pairs moved, renamed, killed"


def bad_frames(_site: Site, lab: Lab) -> str:
    """Frames of no use to anybody: runts, giants, and headers that lie."""
    wire = lab.pair(lab.netns(), lab.netns())
    wire.up()
    sent = 0
    with wire.a.packet() as plain, wire.a.packet(vnet=True) as vnet:
        for n in range(200):
            for sock, data in ((plain, bytes(14 + n % 3)), (vnet, bytes([1, 1, n % 256] * 5)[:10] + bytes(60))):
                with suppress(OSError):
                    sock.send(data)
                    sent += 1
    lab.backend.dellink("va", wire.a.netns.name)
    return f"{sent} bad frames"


def news(site: Site, lab: Lab) -> str:
    """More news of a link than anybody wants, with a listener who never reads any."""
    wire = lab.pair(lab.netns(), lab.netns())
    deaf = UnixConnection(site.socket)
    deaf.request("GET", "/v1/events")
    before = rss_kb(site)
    with deaf.getresponse():
        wire.a.netns.ip(*(f"link set dev va mtu {1400 + n % 2}" for n in range(NEWS)))
        served(site)
        wait_until(lambda: site.daemon.request("GET", site.daemon.link_path("va", wire.a.netns.name))[1]["mtu"] == 1401)
    deaf.close()
    assert rss_kb(site) - before < GROWTH_KB
    lab.backend.dellink("va", wire.a.netns.name)
    return f"{NEWS} changes of one link, and a deaf listener"


def a_thousand_clients(site: Site, _lab: Lab) -> str:
    """On both sockets at once: some say nothing, some half a request; others are served."""
    before = rss_kb(site)
    with ExitStack() as stack:
        for n in range(CLIENTS):
            for kind, suffix in ((socket.SOCK_STREAM, ""), (socket.SOCK_SEQPACKET, ".fd")):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
                sock.connect(f"{site.socket}{suffix}")
                if n % 2 and not suffix:
                    sock.send(b"POST /v1/pairs HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        after = served(site)
        assert rss_kb(site) - before < GROWTH_KB
    wait_until(lambda: site.daemon.fd_count() < CLIENTS, what="their connections closed")
    return f"{CLIENTS} mute clients on each socket, others served after {after:.3f} s"


def a_gigabyte(site: Site, _lab: Lab) -> str:
    """A body, and a head, that never end: refused, and not kept."""
    before, sent = rss_kb(site), 0
    for head in (b"POST /v1/pairs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % GIGABYTE, b"GET /"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20.0)
            sock.connect(str(site.socket))
            sock.sendall(head)
            with suppress(ConnectionError, TimeoutError):
                for _ in range(ENOUGH // len(CHUNK)):
                    sock.sendall(CHUNK.replace(b"\0", b"a"))
                    sent += len(CHUNK)
                    assert rss_kb(site) - before < GROWTH_KB
        served(site)
    return f"{sent >> 20} MB taken of a request without end"


def no_descriptors(site: Site, lab: Lab) -> str:
    """Births are refused in words, what there is goes on, and with descriptors all is well again, by itself."""
    a, b, pid = lab.netns(), lab.netns(), site.daemon.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = site.daemon.fd_count() + FDS_FREE
    made: list[str] = []
    with ExitStack() as stack:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        stack.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, before)
        for n in range(FDS_FREE):
            spec = lab.spec(a, b, LinkSpec(name=f"a{n}"), LinkSpec(name=f"b{n}"))
            status, body = site.daemon.request("POST", "/v1/pairs", msgspec.json.encode(spec))
            if status != 201:
                break
            made.append(body["id"])
        assert body["code"] == "EMFILE", body
        assert os.strerror(errno.EMFILE) in body["message"]
        served(site)
        for _ in range(limit):
            stack.enter_context(FdCall(site.socket))
        # nobody more can be answered; who is deleted now must be buried all the same
        assert made
        a.ip("link del a0")
        wait_until(lambda: "b0" not in b.names(), what="the other end gone, too")
    for pair in made[1:]:
        assert site.daemon.request("DELETE", f"/v1/pairs/{pair}")[0] == 204
    return f"{len(made)} pairs, and then no descriptor"


def a_bad_config(site: Site, _lab: Lab) -> str:
    """Reloads that are refused."""
    good = site.config.read_text()
    site.config.write_text(good + "nonsense = [")
    for _ in range(ROUNDS):
        assert site.daemon.request("POST", "/v1/reload")[0] == 400
    site.config.write_text(good)
    assert site.reload()["deleted"] == 0
    return f"{ROUNDS} reloads refused"


def a_full_disk(site: Site, lab: Lab) -> str:
    """What cannot be saved whole is not saved: the old file stays, and nothing half-written beside it."""
    file = site.state / "pairs.json"
    near, far = lab.netns(), lab.netns()
    site.post(msgspec.to_builtins(lab.spec(near, far)))
    command(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(site.state)])
    try:
        assert site.daemon.request("POST", "/v1/save")[0] == 200
        saved = file.read_bytes()
        filler = site.state / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as full:
            while True:
                full.write(bytes(1024))
        wide = lab.spec(near, far, LinkSpec(name="wa", alias="x" * 250), LinkSpec(name="wb"))
        pair = site.post(msgspec.to_builtins(wide))
        status, body = site.daemon.request("POST", "/v1/save")
        assert (status, body["code"]) == (500, "ENOSPC"), body
        assert str(file) in body["message"]
        assert file.read_bytes() == saved
        assert {path.name for path in site.state.iterdir()} == {"pairs.json", "filler"}
        assert {one["id"]: one["source"] for one in site.daemon.pairs()}[pair["id"]] == "runtime"
        filler.unlink()
        assert site.daemon.request("POST", "/v1/save")[0] == 200
        for name in ("va", "wa"):
            lab.backend.dellink(name, near.name)
    finally:
        command(["umount", str(site.state)])
    return "a save refused"


def a_storm(site: Site, lab: Lab) -> str:
    """Pairs made and deleted while their namespaces come and go."""
    places = [lab.netns() for _ in range(3)]
    over = threading.Event()

    def blow() -> None:
        while not over.is_set():
            for place in places:
                place.delete()
                Netns.create(place.name)

    thread = threading.Thread(target=blow)
    thread.start()
    answers: list[int] = []
    try:
        for n in range(6 * ROUNDS):
            near, far = places[n % 3], places[n // 3 % 3]
            body: Any = {"name": "x", "netns": near.name, "peer": {"name": "y", "netns": far.name}}
            status, pair = site.daemon.request("POST", "/v1/pairs", msgspec.json.encode(body))
            answers.append(status)
            if status == 201:
                change = msgspec.json.encode({"mtu": 1400, "peer": {"netns": places[(n + 1) % 3].name, "up": True}})
                answers.append(site.daemon.request("PATCH", f"/v1/pairs/{pair['id']}", change)[0])
                answers.append(site.daemon.request("DELETE", f"/v1/pairs/{pair['id']}")[0])
    finally:
        over.set()
        thread.join()
    assert set(answers) <= {200, 201, 204, 400, 404, 409}, answers
    wait_until(lambda: not set().union(*(place.names() for place in places)), what="nothing left of the storm")
    return f"{len(answers)} requests in a storm, {answers.count(201)} pairs made"


TROUBLES = (
    refusals,
    deaths,
    bad_frames,
    news,
    a_thousand_clients,
    a_gigabyte,
    no_descriptors,
    a_bad_config,
    a_full_disk,
    a_storm,
)
