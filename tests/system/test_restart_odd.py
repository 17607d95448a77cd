"""A start with whatever in the fd store: what can be adopted is, the rest is told and cleaned, and the daemon runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.lib.daemon import PROGRAM, UnixConnection
from tests.lib.engines import ENGINE
from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns
from tests.lib.wait import wait_until
from vethd.kernel.births import Nursery
from vethd.kernel.tun import Tap
from vethd.model.record import VERSION, EndRecord, EngineRecord, PairRecord, encode, encode_pair, framed
from vethd.model.spec import LinkSpec, PairSpec

HEAD = 16
# Puts the fds where systemd would, in the order of their names, and becomes vethd.
LAUNCHER = """
import fcntl, json, os, sys
fds = [(name, fcntl.fcntl(fd, fcntl.F_DUPFD, 500)) for name, fd in json.loads(sys.argv[1])]
for place, (_, fd) in enumerate(fds, 3):
    os.dup2(fd, place)
os.closerange(3 + len(fds), 1000)
names = ":".join(name for name, _ in fds)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names}
os.execv(sys.argv[2], sys.argv[2:])
"""


class Store:
    """Fds by name, our own to close, and the devices among them."""

    def __init__(self, home: Netns) -> None:
        self.home = home
        self.fds: list[tuple[str, int]] = []

    def device(self, name: str, ifname: str, queues: int = 1) -> None:
        """Add a TAP under name, name.1, ..."""
        tap = self.home.run(Tap.birth, ifname, queues)
        self.fds += [(f"{name}.{number}" if number else name, fd) for number, fd in enumerate(tap.fds)]

    def memfd(self, name: str, data: bytes) -> None:
        """Add a file that holds data."""
        fd = os.memfd_create(name)
        os.write(fd, data)
        self.fds.append((name, fd))

    def close(self) -> None:
        """Close all."""
        for _, fd in self.fds:
            os.close(fd)


@pytest.fixture
def store(root: None) -> Iterator[Store]:  # noqa: ARG001 - the check that we may
    home = Netns.create(f"{PREFIX}odd")
    it = Store(home)
    yield it
    it.close()
    wait_until(lambda: home.names() == set(), what="the end of all devices")
    home.delete()


@contextmanager
def started(store: Store, directory: Path) -> Iterator[tuple[list[dict[str, Any]], list[Any]]]:
    """Start vethd with what is in the store; give what it logged until it was ready, and its pairs."""
    argv = [*PROGRAM, "--socket", str(directory / "sock"), "--engine", ENGINE]
    launcher = [sys.executable, "-c", LAUNCHER, json.dumps(store.fds), *argv]
    fds = [fd for _, fd in store.fds]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(launcher, pass_fds=fds, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    process = store.home.run(start)
    try:
        assert process.stderr is not None
        lines: list[dict[str, Any]] = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "started":
                break
        assert process.poll() is None
        yield lines, get(directory / "sock", "/v1/pairs")
    finally:
        process.terminate()
        rest = process.communicate(timeout=20)[1]
        assert process.returncode == 0, rest
        assert "Traceback" not in rest, rest


def pair(number: int, *fds: str, **fields: Any) -> PairRecord:
    near, far = (EndRecord(fds=[fd], drops=[0] * 8) for fd in fds)
    spec = PairSpec(name=f"a{number}", peer=LinkSpec(name=f"b{number}"))
    return msgspec.structs.replace(PairRecord(id=f"p{number}", spec=spec, ends=(near, far)), **fields)


def get(sock: Path, path: str) -> Any:
    connection = UnixConnection(sock)
    connection.request("GET", path)
    try:
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def record(*pairs: PairRecord, seq: int = 1, **fields: Any) -> bytes:
    data = encode(seq, 9, 99, map(encode_pair, pairs), EngineRecord(name=ENGINE, workers=1 if ENGINE == "uring" else 0))
    return framed(json.dumps(json.loads(data[HEAD:]) | fields).encode())


def warnings(lines: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{line['event']}: {line.get('pair', '')} {line.get('reason', '')}"
        for line in lines
        if line["level"] == "warning"
    )


def test_of_much_that_is_wrong_what_is_right_goes_on(store: Store, tmp_path: Path) -> None:
    for number, name in enumerate(("a1", "b1", "a2", "a3", "b3", "c", "a4", "b4"), 1):
        store.device(f"t{number}", name)
    store.home.run(lambda: Nursery().delete(Tap.adopt((dict(store.fds)["t4"],))))
    store.fds += [("t50", os.open("/dev/null", os.O_RDWR)), ("t51", socket.socket().detach()), ("t1", os.dup(0))]
    odd = json.loads(bytes(encode_pair(pair(4, "t7", "t8"))))
    odd["spec"]["invention"] = odd["ends"][0]["drops"] = "?"
    pairs = (pair(1, "t1", "t2"), pair(2, "t3", "t9"), pair(3, "t4", "t5"), pair(6, "t50", "t51"))
    whole = [json.loads(bytes(encode_pair(it))) for it in pairs]
    store.memfd("s0", record(seq=7, version=VERSION + 1, pairs=[*whole, odd, {"id": "p5"}, 3]))
    store.memfd("s1", record(pair(1, "t1", "t3"), seq=8)[:-1])
    with started(store, tmp_path) as (lines, found):
        assert store.home.names() == {"a1", "b1", "a4", "b4"}
        assert {(it["id"], it["state"], it["spec"]["name"]) for it in found} == {
            ("p1", "alive", "a1"),
            ("p4", "alive", "a4"),
        }
        told = warnings(lines)
        for words in (
            "a copy of the record: it is damaged",
            f"a newer vethd wrote the record (version {VERSION + 1}",
            "spec of pair p4: ",
            "what was counted of pair p4",
            "pair number 5: ",
            "pair not taken over: p2 of its file descriptors there is no t9",
            "pair not taken over: p3 its devices are gone",
            "pair not taken over: p6 its devices are gone",
            "stored devices without a record deleted",
        ):
            assert words in told, told
        store.home.ip(*(f"link set dev {name} up" for name in ("a1", "b1")))
        wait_until(lambda: "LOWER_UP" in store.home.command("ip", "link", "show", "a1"), what="the carrier")


@pytest.mark.parametrize("what", ["both copies damaged", "no copies", "empty copies", "copies that are devices"])
def test_without_a_record_all_is_cleaned(store: Store, tmp_path: Path, what: str) -> None:
    store.device("t1", "a1")
    store.device("t2", "b1", queues=2)
    for name in ("s0", "s1"):
        if "damaged" in what:
            store.memfd(name, record(pair(1, "t1", "t2"))[:-1] + b"?")
        elif "empty" in what:
            store.memfd(name, b"")
        elif "devices" in what:
            store.device(name, f"x{name}")
    with started(store, tmp_path) as (lines, found):
        assert (store.home.names(), found) == (set(), [])
        assert "stored devices without a record deleted" in warnings(lines)
        assert ("damaged" in what) == ("it is damaged" in warnings(lines))


def test_queues_of_two_devices_are_no_end(store: Store, tmp_path: Path) -> None:
    for number, name in enumerate(("a1", "b1", "c1"), 1):
        store.device(f"t{number}", name)
    one = pair(1, "t1", "t2")
    mixed = msgspec.structs.replace(one.ends[0], fds=["t1", "t3"])
    store.memfd("s0", record(msgspec.structs.replace(one, ends=(mixed, one.ends[1]))))
    with started(store, tmp_path) as (lines, found):
        assert (store.home.names(), found) == (set(), [])
        assert "pair not taken over: p1" in warnings(lines)


@pytest.mark.parametrize("name", ["asyncio", "uring", "warp", None])
def test_the_engine_is_as_configured_whatever_the_record_says(store: Store, tmp_path: Path, name: str | None) -> None:
    """It may forward by another until the config is read; the devices do not notice."""
    for number, ifname in enumerate(("a1", "b1"), 1):
        store.device(f"t{number}", ifname)
    store.memfd("s0", record(pair(1, "t1", "t2"), engine=name and {"name": name, "workers": 3}))
    with started(store, tmp_path) as (lines, found):
        assert [it["state"] for it in found] == ["alive"]
        assert get(tmp_path / "sock", "/v1/engine")["name"] == ENGINE
        assert warnings(lines) == ""
        store.home.ip(*(f"link set dev {ifname} up" for ifname in ("a1", "b1")))
        wait_until(lambda: get(tmp_path / "sock", "/v1/links")[0]["carrier"], what="the carrier")
        store.home.ip("addr add 10.8.0.1/24 dev a1")
        with store.home.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"an ARP request goes first", ("10.8.0.9", 9))
        wait_until(lambda: max(end["forwarded"] for end in get(tmp_path / "sock", "/v1/stats")) > 0, what="a frame")
