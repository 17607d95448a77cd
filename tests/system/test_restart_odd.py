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
from vethd.model.record import VERSION, EndRecord, EngineRecord, PairRecord, decode, encode, encode_pair, framed
from vethd.model.spec import RING, LinkSpec, PairSpec

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
    """Start vethd with what is in the store; yield what it logged until it was ready, and its pairs."""
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
    data = encode(
        seq, 9, 99, map(encode_pair, pairs), EngineRecord(name=ENGINE, workers=1 if ENGINE == "native" else 0)
    )
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
            "the counters of pair p4",
            "pair number 5: ",
            "pair not taken over: p2 file descriptors are missing: t9",
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


@pytest.mark.parametrize("name", ["asyncio", "native", "uring", "warp", None])
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


def test_words_of_a_former_release_go_and_its_attachments_stay(store: Store, tmp_path: Path) -> None:
    """An upgrade from a record of version 2: a pair with an alias of the user's, and a container's attachment."""
    names = ("a1", "b1", "veth0", "eth0")
    for number, name in enumerate(names, 1):
        store.device(f"u{number}", name)
    aliases = ("mine", "peer a1 ifindex 2 netns -", "cni podman 7839 eth0", "peer veth0 ifindex 4 netns -")
    peers = ("a1@b1", "b1@a1", "veth0@eth0", "eth0@veth0")
    for name, alias, altname in zip(names, aliases, peers, strict=True):
        store.home.ip(f"link set dev {name} alias '{alias}'", f"link property add dev {name} altname {altname}")
    store.home.ip("link property add dev a1 altname kept")
    published = ("peer b1 ifindex 3 netns -", aliases[1], "peer eth0 ifindex 5 netns -", aliases[3])
    ends = [
        EndRecord(fds=[f"u{number}"], alias=alias, altname=altname, own_alias=number in (1, 3))
        for number, (alias, altname) in enumerate(zip(published, peers, strict=True), 1)
    ]
    spec = PairSpec(name="veth0", alias=aliases[2], peer=LinkSpec(name="eth0"))
    pairs = (
        msgspec.structs.replace(pair(1, "u1", "u2"), ends=(ends[0], ends[1])),
        PairRecord(id="p2", source="saved", spec=spec, ends=(ends[2], ends[3])),
    )
    store.memfd("s0", record(*pairs, version=2))

    def seen(found: list[Any]) -> dict[str, tuple[str, str]]:
        return {link["name"]: (link["alias"], link["altname"]) for it in found for link in it["links"]}

    with started(store, tmp_path) as (lines, found):
        assert warnings(lines) == ""
        assert seen(found) == {"a1": ("mine", "kept"), "b1": ("", ""), "veth0": ("", ""), "eth0": ("", "")}
        one, two = sorted(found, key=lambda it: str(it["id"]))
        assert (one.get("attachment"), two["source"], two["spec"].get("alias")) == (None, "runtime", None)
        key = {"network": "podman", "container": "7839", "ifname": "eth0"}
        assert two["attachment"] == key
        (told,) = get(tmp_path / "sock", "/v1/attachments")
        assert told == key | {"pair": "p2", "state": "attached"}
        rows = json.loads(store.home.command("ip", "-json", "link", "show"))
        kept = {row["ifname"]: (row.get("ifalias"), row.get("altnames")) for row in rows if row["ifname"] in names}
        assert kept == {"a1": ("mine", ["kept"]), "b1": (None, None), "veth0": (None, None), "eth0": (None, None)}
    written = max((decode(os.pread(fd, 1 << 20, 0)) for name, fd in store.fds if name == "s0"), key=lambda it: it.seq)
    assert (written.version, [it.attachment and str(it.attachment) for it in written.pairs]) == (
        VERSION,
        [None, "podman/7839/eth0"],
    )


@pytest.mark.parametrize(
    ("recorded", "had", "shown"),
    [
        ({}, 0, 0),  # by a release that gave the device what was asked
        ({}, 2000, 2000),
        ({"ring": 1000}, 1000, 1000),
        ({"ring": 1000, "txqueuelen": 5}, 1000, 5),
        ({"ring": 1000, "txqueuelen": 5}, 7, 7),  # set while nobody listened
        ({"ring": 2000, "txqueuelen": 5}, 2000, 5),  # the config's ring is another now
    ],
)
def test_a_ring_is_as_long_as_it_shall_be(
    store: Store, tmp_path: Path, recorded: dict[str, int], had: int, shown: int
) -> None:
    for number, ifname in enumerate(("a1", "b1"), 1):
        store.device(f"u{number}", ifname)
        store.home.ip(f"link set dev {ifname} txqueuelen {had}")
    one = pair(1, "u1", "u2")
    ends = tuple(msgspec.structs.replace(end, **recorded) for end in one.ends)
    store.memfd("s0", record(msgspec.structs.replace(one, ends=ends)))
    with started(store, tmp_path) as (lines, _):
        assert warnings(lines) == ""

        def seen() -> set[tuple[int, int]]:
            return {(link["txqueuelen"], link["ring"]) for link in get(tmp_path / "sock", "/v1/links")}

        wait_until(lambda: seen() == {(shown, max(shown, RING))}, what="the rings")
        rows = json.loads(store.home.command("ip", "-json", "link", "show"))
        assert {row["txqlen"] for row in rows if row["ifname"] in ("a1", "b1")} == {max(shown, RING)}
