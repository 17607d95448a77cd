"""The fd-passing socket of a real daemon: namespaces by descriptor, and a daemon that keeps none of them."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.kernel.lib import Net
from tests.lib.lab import End, Lab, Wire
from tests.lib.site import FdCall, Site, fd_call
from tests.lib.sockets import ping
from tests.lib.wait import wait_until
from vethd.doors.fdpass import FDS_MAX
from vethd.doors.routing import BODY_MAX


@pytest.fixture
def nets(lab: Lab) -> Iterator[tuple[Net, Net]]:  # noqa: ARG001 - the namespaces end before it does
    """Yield two namespaces without a name."""
    with ExitStack() as stack:
        pair = Net(), Net()
        for net in pair:
            stack.callback(net.let_go)
        yield pair


def ends(near: str, far: str) -> dict[str, Any]:
    return {"name": "va", "netns": near, "up": True, "peer": {"name": "vb", "netns": far}}


def quiet(site: Site) -> None:
    """Wait until no connection is left and every descriptor that came with one is closed."""
    extra = 2 * len(site.daemon.pairs())
    wait_until(lambda: site.daemon.fd_count() <= site.idle_fds + extra, what="descriptors given back")


def test_pair_between_namespaces_without_a_name(site: Site, nets: tuple[Net, Net]) -> None:
    a, b = nets
    status, pair = fd_call(site.socket, "POST", "/v1/pairs", ends("fd:0", "fd:1"), [a.fd, b.fd])
    assert status == 201
    assert [link["netns_inode"] for link in pair["links"]] == [a.inode, b.inode]
    assert [link["netns"] for link in pair["links"]] == [f"net:[{a.inode}]", f"net:[{b.inode}]"]
    assert "fd:" not in json.dumps(pair["spec"])
    wire = Wire(End(a, "va"), End(b, "vb"))
    wire.up()
    near, far = wire.addresses()
    ping(a, near, b, far)
    quiet(site)
    status, link = fd_call(site.socket, "GET", "/v1/links/vb?netns=fd:0", None, [b.fd])
    assert (status, link["ifindex"]) == (200, wire.b.link.ifindex)
    assert fd_call(site.socket, "GET", "/v1/links/vb?netns=fd:0", None, [a.fd])[0] == 404
    status, stats = fd_call(site.socket, "GET", "/v1/links/va/stats?netns=fd:1", None, [b.fd, a.fd])
    assert (status, stats["name"]) == (200, "va")
    assert fd_call(site.socket, "DELETE", "/v1/links/va?netns=fd:0", None, [a.fd]) == (204, None)
    assert (a.names(), b.names()) == (set(), set())


def test_namespace_is_not_held(site: Site, nets: tuple[Net, Net]) -> None:
    """Once we let go of it, it dies, and the pair with it."""
    a, b = nets
    assert fd_call(site.socket, "POST", "/v1/pairs", ends("fd:0", "fd:1"), [a.fd, b.fd])[0] == 201
    b.let_go()
    wait_until(lambda: not a.names(), what="va's end")
    wait_until(lambda: not site.daemon.pairs(), what="the pair's end")


def test_move_by_fd(site: Site, lab: Lab, nets: tuple[Net, Net]) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    target = nets[0]
    body = {"netns": "fd:0", "up": True}
    status, link = fd_call(site.socket, "PATCH", "/v1/links/vb", body, [target.fd])
    assert (status, link["netns_inode"]) == (200, target.inode)
    assert target.names() == {"vb"}
    assert "fd:" not in json.dumps(site.daemon.pairs()[0]["spec"])
    wire.b.netns = target
    wire.up()
    near, far = wire.addresses()
    ping(wire.a.netns, near, target, far)


def test_requests_without_fds(site: Site, lab: Lab) -> None:
    """The same operations, names of namespaces included."""
    a, b = lab.netns("a"), lab.netns("b")
    assert fd_call(site.socket, "GET", "/v1/health")[1]["pid"] == site.daemon.pid
    status, pair = fd_call(site.socket, "POST", "/v1/pairs", ends(a.name, b.name))
    assert status == 201
    assert fd_call(site.socket, "PATCH", f"/v1/pairs/{pair['id']}", {"mtu": 1400})[1]["links"][0]["mtu"] == 1400
    assert fd_call(site.socket, "GET", "/v1/pairs")[1][0]["id"] == pair["id"]
    assert fd_call(site.socket, "GET", "/v1/links/v%61")[1]["name"] == "va"
    assert fd_call(site.socket, "DELETE", f"/v1/pairs/{pair['id']}") == (204, None)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (("GET", "/v1/nothing", None), (404, "PATH")),
        (("PUT", "/v1/pairs", None), (405, "METHOD")),
        (("GET", "/v1/events", None), (404, "PATH")),
        (("GET", "/v1/pairs/p0", None), (404, "ENOENT")),
        (("POST", "/v1/pairs", {"mtu": 67}), (400, "EINVAL")),
        (("POST", "/v1/pairs", {"mtuu": 1}), (400, "EINVAL")),
        (("POST", "/v1/pairs", []), (400, "EINVAL")),
        (("POST", "/v1/pairs", {"netns": "fd:1"}), (400, "EBADF")),
        (("POST", "/v1/pairs", {"netns": "fd:"}), (400, "EBADF")),
        (("POST", "/v1/pairs", {"netns": "fd:-1"}), (400, "EBADF")),
        (("POST", "/v1/pairs", {"netns": "fd:99999999999999999999"}), (400, "EBADF")),
        (("POST", "/v1/pairs", {"peer": {"netns": "fd:0"}}), (400, "EINVAL")),
        (("GET", "/v1/links/va?netns=fd:7", None), (400, "EBADF")),
    ],
)
def test_refusal(site: Site, lab: Lab, request_: tuple[str, str, Any], answer: tuple[int, str]) -> None:
    """fd 0 is no namespace."""
    with open(os.devnull, "rb") as null:  # noqa: PTH123 - any descriptor
        status, reply = fd_call(site.socket, *request_, [null.fileno()])
    assert (status, reply["code"]) == answer
    assert reply["message"]
    if reply["errno"]:
        assert getattr(errno, reply["code"]) == reply["errno"]
    assert lab.backend.home.names() == set()
    quiet(site)


BAD = [
    b'{"method": "GET", "path": "/v1/hea',
    b"nonsense",
    b"[]",
    b"{}",
    b'{"method": "GET"}',
    b'{"method": 1, "path": "/"}',
    b'{"method": "GET", "path": "/v1/health", "fds": 1}',
    b'{"method": "GET", "path": "/\xff"}',
    b'{"method": "POST", "path": "/v1/pairs", "body": {"name": "\xff"}}',
    b'{"method": "POST", "path": "/v1/pairs", "body": {"name": }}',
    b"\0",
]


@pytest.mark.parametrize("data", BAD, ids=repr)
@pytest.mark.parametrize("with_fds", [False, True])
def test_malformed(site: Site, lab: Lab, data: bytes, with_fds: bool) -> None:  # noqa: ARG001 - proves that nothing stays
    with FdCall(site.socket) as call:
        call.say(data, [call.sock.fileno()] * 3 if with_fds else [])
        reply = call.hear()
    assert reply is not None
    assert (reply[0], reply[1]["code"]) == (400, "EINVAL")
    quiet(site)


@pytest.mark.parametrize("count", [FDS_MAX, FDS_MAX + 1, 64, 253])
def test_number_of_fds(site: Site, lab: Lab, count: int) -> None:  # noqa: ARG001 - proves that nothing stays
    """Sixteen are taken, more are refused; all are given back. 253 is what the kernel carries."""
    with FdCall(site.socket) as call:
        call.say(b'{"method": "GET", "path": "/v1/health"}', [call.sock.fileno()] * count)
        reply = call.hear()
    assert reply is not None
    assert reply[0] == (200 if count <= FDS_MAX else 413)
    assert reply[1].get("code") == (None if count <= FDS_MAX else "E2BIG")
    quiet(site)


@pytest.mark.parametrize("size", [BODY_MAX, BODY_MAX + 1, 2 * BODY_MAX])
def test_size(site: Site, lab: Lab, size: int) -> None:  # noqa: ARG001 - proves that nothing stays
    with FdCall(site.socket) as call:
        call.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * BODY_MAX)
        call.say(b'{"method": "GET", "path": "/v1/health"}'.ljust(size), [call.sock.fileno()])
        reply = call.hear()
    assert reply is not None
    assert reply[0] == (200 if size <= BODY_MAX else 413)
    quiet(site)


def test_hung_up_on(site: Site, lab: Lab) -> None:
    """Connect and leave; say something and leave; say nothing, with an fd; leave before the answer."""
    for _ in range(10):
        FdCall(site.socket).sock.close()
        with FdCall(site.socket) as call:
            call.say(b'{"method": "GET", "path": "/v1/stats"}', [call.sock.fileno()])
        with FdCall(site.socket) as call:
            call.say(b"", [call.sock.fileno()])
        with FdCall(site.socket) as call:
            call.say(b"{", [call.sock.fileno()] * 200)
    quiet(site)
    lab.pair(lab.netns(), lab.netns())


def test_silent_callers_stall_nobody(site: Site, lab: Lab) -> None:
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.up()
    near, far = wire.addresses()
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(FdCall(site.socket))
        for _ in range(20):
            ping(wire.a.netns, near, wire.b.netns, far)
            assert fd_call(site.socket, "GET", "/v1/health")[0] == 200
            assert site.daemon.request("GET", "/v1/health")[0] == 200
    quiet(site)


def test_one_request_a_connection(site: Site, lab: Lab) -> None:  # noqa: ARG001 - proves that nothing stays
    with FdCall(site.socket) as call:
        call.say(b'{"method": "GET", "path": "/v1/health"}')
        assert (call.hear() or (0,))[0] == 200
        assert call.hear() is None


def test_many_callers_at_once(site: Site, nets: tuple[Net, Net]) -> None:
    """One of them makes the pair, and the others hear that it is there."""
    a, b = nets
    request = json.dumps({"method": "POST", "path": "/v1/pairs", "body": ends("fd:0", "fd:1")}).encode()
    with ExitStack() as stack:
        calls = [stack.enter_context(FdCall(site.socket)) for _ in range(20)]
        for call in calls:
            call.say(request, [a.fd, b.fd])
        statuses = sorted((call.hear() or (0,))[0] for call in calls)
    assert statuses == [201] + [409] * 19
    assert (a.names(), b.names()) == ({"va"}, {"vb"})
    quiet(site)
    a.delete("va")
    wait_until(lambda: not b.names())
