"""Client against a daemon that is not one: what it sends, what it makes of the answers, where namespaces go."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from tests.lib.fake_daemon import ASYNCIO, HOME, FakeDaemon, daemon_fixture, link_info, link_stats, pair_info
from tests.lib.wait import wait_until
from vethd.control import Client, DaemonDown, Reloaded
from vethd.control import client as client_module
from vethd.control import netns as netns_module
from vethd.control.transport import refusal
from vethd.model.api import EngineChange, ErrorBody, PairChange, PairEvent, Saved
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec

__all__ = ["daemon_fixture"]  # pytest knows it as daemon

ELSEWHERE = HOME + 1
NO_PID = "4194305"  # beyond PID_MAX_LIMIT


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(daemon.path)


def test_socket_comes_from_argument_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VETHD_SOCKET", raising=False)
    assert Client().socket == "/run/vethd/vethd.sock"
    monkeypatch.setenv("VETHD_SOCKET", "/tmp/e.sock")
    assert Client().socket == "/tmp/e.sock"
    assert Client("/tmp/a.sock").socket == "/tmp/a.sock"


def test_every_read_is_typed(client: Client, daemon: FakeDaemon) -> None:
    info, link, counters = pair_info(), link_info("va", "vb"), link_stats("va", "vb")
    daemon.on("GET", "/v1/pairs", body=[info])
    daemon.on("GET", "/v1/pairs/p%201", body=info)
    daemon.on("GET", "/v1/links", body=[link])
    daemon.on("GET", "/v1/links/va", body=link)
    daemon.on("GET", "/v1/stats", body=[counters])
    daemon.on("GET", "/v1/links/va/stats", body=counters)
    daemon.on("POST", "/v1/save", body=Saved(pairs=2, file="/x"))
    daemon.on("POST", "/v1/reload", body={"created": 1, "changed": 2, "deleted": 3, "waiting": 4})
    daemon.on("PATCH", "/v1/engine", body=ASYNCIO)
    daemon.on("GET", "/metrics", raw=b"vethd_pairs 1\n")
    daemon.on("GET", "/v1/openapi.json", body={"openapi": "3.1.0"})
    assert client.pairs() == [info]
    assert client.pair("p 1") == info
    assert client.links() == [link]
    assert client.link("va") == link
    assert client.stats() == [counters]
    assert client.link_stats("va", "blue") == counters
    assert client.save() == Saved(pairs=2, file="/x")
    assert client.reload() == Reloaded(created=1, changed=2, deleted=3, waiting=4)
    assert client.health().netns_inode == HOME
    assert client.engine() == client.set_engine(EngineChange(gro=True)) == ASYNCIO
    assert client.metrics() == "vethd_pairs 1\n"
    assert client.openapi() == {"openapi": "3.1.0"}
    assert [seen.query for seen in daemon.seen if seen.path == "/v1/links/va/stats"] == [{"netns": "blue"}]


def test_device_names_are_quoted(client: Client, daemon: FakeDaemon) -> None:
    daemon.on("DELETE", "/v1/links/v%3F%23%25", 204)
    client.delete_link("v?#%")
    assert daemon.seen[-1].path == "/v1/links/v%3F%23%25"


def test_refusal_is_rebuilt(client: Client, daemon: FakeDaemon) -> None:
    daemon.refuse("POST", "/v1/pairs", VethError(errno.EEXIST, "newlink", "va"), 409)
    with pytest.raises(VethError) as caught:
        client.create(PairSpec(name="va"))
    assert caught.value.args == (errno.EEXIST, "newlink", "va", os.strerror(errno.EEXIST))


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ("newlink va: File exists", ("newlink", "va", "File exists")),
        ("save: No space left", ("save", "", "No space left")),
        ("newlink a b: 'a b' is: bad", ("newlink", "a b", "'a b' is: bad")),
        ("Expected `int`", ("pairs", "", "Expected `int`")),
        ("/etc/x.toml: pair[0].mtu: no", ("pairs", "", "/etc/x.toml: pair[0].mtu: no")),
    ],
)
def test_messages_are_taken_apart(message: str, parts: tuple[str, str, str]) -> None:
    error = refusal(ErrorBody(code="EINVAL", errno=22, message=message), "pairs")
    assert (error.op, error.ifname, error.reason) == parts


def test_create_at_home_leaves_netns_unsaid(client: Client, daemon: FakeDaemon) -> None:
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    client.create(PairSpec(name="va", up=True, peer=LinkSpec(name="vb", netns="blue")))
    (seen,) = daemon.asked("POST")
    assert seen.body == {"name": "va", "up": True, "peer": {"name": "vb", "netns": "blue"}}
    assert seen.fds == []


def test_create_elsewhere_sends_own_netns(client: Client, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "own_inode", lambda: ELSEWHERE)
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    client.create(PairSpec(name="va", peer=LinkSpec(name="vb")))
    client.create(PairSpec(name="va", netns="blue", peer=LinkSpec(name="vb")))
    client.create(PairSpec(name="va"))
    both, far, never_named = daemon.asked("POST")
    assert both.body == {"name": "va", "netns": "fd:0", "peer": {"name": "vb", "netns": "fd:0"}}
    assert far.body == {"name": "va", "netns": "blue", "peer": {"name": "vb", "netns": "fd:0"}}
    assert never_named.body == {"name": "va", "netns": "fd:0"}
    assert both.fds == far.fds == never_named.fds == [HOME]


def test_create_with_all_said_asks_no_health(client: Client, daemon: FakeDaemon) -> None:
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    client.create(PairSpec(name="va", netns="red", peer=LinkSpec(name="vb", netns="/run/netns/blue")))
    assert [seen.path for seen in daemon.seen] == ["/v1/pairs"]
    assert daemon.seen[0].body["peer"]["netns"] == "/run/netns/blue"


def test_pid_and_fd_are_sent(client: Client, daemon: FakeDaemon) -> None:
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    try:
        client.create(PairSpec(name="va", netns=str(os.getpid()), peer=LinkSpec(name="vb", netns=f"fd:{fd}")))
        # the fake daemon's thread closes its end of the connection in its own time
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == before, what="no fd more than before")  # noqa: PTH208
        os.fstat(fd)  # still ours
    finally:
        os.close(fd)
    (seen,) = daemon.seen
    assert (seen.body["peer"]["netns"], seen.body["netns"], seen.fds) == ("fd:0", "fd:1", [HOME, HOME])


def test_names_win_over_pids(
    client: Client, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns_module, "NAMES", tmp_path)
    (tmp_path / NO_PID).touch()
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    client.create(PairSpec(name="va", netns=NO_PID))
    assert daemon.seen[0].body == {"name": "va", "netns": NO_PID}


@pytest.mark.parametrize(
    ("netns", "number"), [(NO_PID, errno.ESRCH), ("fd:999", errno.EBADF), ("fd:x", errno.EBADF), ("fd:-1", errno.EBADF)]
)
def test_netns_that_cannot_be_opened(client: Client, daemon: FakeDaemon, netns: str, number: int) -> None:
    for create in (PairSpec(name="va", netns=netns), PairSpec(name="va", netns="red", peer=LinkSpec(netns=netns))):
        with pytest.raises(VethError) as caught:
            client.create(create)
        assert (caught.value.errno, caught.value.op, caught.value.ifname) == (number, "newlink", "va")
    assert not daemon.asked("POST")


def test_peer_up_is_a_second_step(client: Client, daemon: FakeDaemon) -> None:
    up = pair_info(links=[link_info("va", "vb", up=True), link_info("vb", "va", up=True)])
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    daemon.on("PATCH", "/v1/pairs/p1", body=up)
    assert client.create(PairSpec(name="va", up=True, peer=LinkSpec(name="vb", up=True))) == up
    post, patch = daemon.asked("POST", "PATCH")
    assert post.body == {"name": "va", "up": True, "peer": {"name": "vb"}}
    assert patch.body == {"peer": {"up": True}}


def test_peer_that_will_not_come_up_undoes_the_pair(client: Client, daemon: FakeDaemon) -> None:
    daemon.on("POST", "/v1/pairs", 201, pair_info())
    daemon.refuse("PATCH", "/v1/pairs/p1", VethError(errno.EPERM, "open", "vb"), 403)
    daemon.on("DELETE", "/v1/pairs/p1", 204)
    with pytest.raises(VethError, match="open vb"):
        client.create(PairSpec(name="va", peer=LinkSpec(name="vb", up=True)))
    assert [seen.method for seen in daemon.seen if seen.path != "/v1/health"] == ["POST", "PATCH", "DELETE"]


def test_change_moves_only_what_is_said(client: Client, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "own_inode", lambda: ELSEWHERE)
    daemon.on("PATCH", "/v1/pairs/p1", body=pair_info())
    daemon.on("PATCH", "/v1/links/va", body=link_info("va"))
    client.change("p1", PairChange(mtu=9000, peer=LinkSpec(netns=str(os.getpid()))))
    client.set_link("va", LinkSpec(up=True, alias=""), netns=str(os.getpid()))
    pair, link = daemon.seen
    assert (pair.body, pair.fds) == ({"mtu": 9000, "peer": {"netns": "fd:0"}}, [HOME])
    assert (link.body, link.query, link.fds) == ({"up": True, "alias": ""}, {"netns": "fd:0"}, [HOME])


def test_ambiguous_name_means_the_callers_own(
    client: Client, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    ambiguous = VethError(errno.ENOTUNIQ, "getlink", "va")
    daemon.refuse("GET", "/v1/links/va", ambiguous, 409)
    daemon.on("GET", "/v1/links/va", body=link_info("va"))
    assert client.link("va").name == "va"
    assert daemon.seen[-1].query == {"netns": ""}
    monkeypatch.setattr(client_module, "own_inode", lambda: ELSEWHERE)
    daemon.refuse("DELETE", "/v1/links/va", ambiguous, 409)
    daemon.on("DELETE", "/v1/links/va", 204)
    client.delete_link("va")
    assert (daemon.seen[-1].query, daemon.seen[-1].fds) == ({"netns": "fd:0"}, [HOME])


def test_ambiguous_name_that_is_not_the_callers(client: Client, daemon: FakeDaemon) -> None:
    daemon.refuse("GET", "/v1/links/va", VethError(errno.ENOTUNIQ, "getlink", "va"), 409)
    daemon.refuse("GET", "/v1/links/va", VethError(errno.ENODEV, "getlink", "va"), 404)
    with pytest.raises(VethError) as caught:
        client.link("va")
    assert caught.value.errno == errno.ENOTUNIQ


def test_events_come_until_the_daemon_stops(client: Client, daemon: FakeDaemon) -> None:
    lines = [
        b'{"seq":1,"time":2.5,"event":"pair_created","pair":"p1"}\n',
        b'\n{"seq":2,"ti',
        b'me":3,"event":"link_up"}\n',
    ]
    daemon.on("GET", "/v1/events", lines=lines)
    events = list(client.events())
    assert events == [
        PairEvent(seq=1, time=2.5, event="pair_created", pair="p1"),
        PairEvent(seq=2, time=3, event="link_up"),
    ]


def test_events_hang_up(client: Client, daemon: FakeDaemon) -> None:
    daemon.on("GET", "/v1/events", lines=[b'{"seq":1,"time":2,"event":"reloaded"}\n'] * 2)
    events = client.events()
    assert next(events).seq == 1
    events.close()


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(DaemonDown) as caught:
        Client(str(tmp_path / "none.sock")).pairs()
    assert str(caught.value).startswith(f"no vethd listens at {tmp_path}/none.sock: start it")


def test_socket_of_a_dead_daemon(tmp_path: Path) -> None:
    path = str(tmp_path / "dead.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(DaemonDown, match="no vethd listens"):
        Client(path).health()


def test_daemon_that_does_not_answer(tmp_path: Path) -> None:
    path = str(tmp_path / "mute.sock")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(path)
        mute.listen()
        with pytest.raises(DaemonDown, match=r"no answer within 0\.05 s"):
            Client(path, timeout_s=0.05).health()


@pytest.mark.parametrize(("status", "raw"), [(200, b"<html>"), (200, b"[1]"), (502, b"<html>"), (500, b"{}")])
def test_reply_that_is_not_ours(client: Client, daemon: FakeDaemon, status: int, raw: bytes) -> None:
    daemon.on("GET", "/v1/pairs", status, raw=raw)
    with pytest.raises(DaemonDown, match="not vethd's"):
        client.pairs()


def test_fd_socket_that_breaks_off(client: Client, daemon: FakeDaemon) -> None:
    daemon.on("POST", "/v1/pairs", raw=b"")
    with pytest.raises(DaemonDown, match="incomplete reply"):
        client.create(PairSpec(name="va", netns=str(os.getpid())))


def test_refusal_on_the_fd_socket(client: Client, daemon: FakeDaemon) -> None:
    daemon.refuse("POST", "/v1/pairs", VethError(errno.EEXIST, "newlink", "va"), 409)
    with pytest.raises(VethError, match=os.strerror(errno.EEXIST)):
        client.create(PairSpec(name="va", netns=str(os.getpid())))
