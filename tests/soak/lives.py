"""Every way to make and delete a pair, and to use the daemon's sockets. No round of any way leaves anything behind.

A round makes one pair, or none if the request is refused or makes nothing, and returns when all of it is gone. Rounds
may run in several threads, except those of LONE, which change the configuration or the saved pairs.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from tests.lib.daemon import UnixConnection
from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns
from tests.lib.rtnl import (
    IFLA_IFNAME,
    IFLA_NET_NS_FD,
    RTM_DELLINK,
    RTM_NEWLINK,
    Attrs,
    Rtnl,
    ifinfomsg,
    nest,
    text,
    u32,
)
from tests.lib.site import fd_call, toml_pair
from tests.soak.ground import BRIDGE, Ground, Pair

# --- through the daemon's own sockets


def deleted(ground: Ground) -> None:
    """Make a pair in the daemon's own namespace, set it up, and delete it through the API."""
    pair = ground.pair()
    ground.up(pair)
    ground.delete(pair)


def deleted_by_fd(ground: Ground) -> None:
    """Make a pair between namespaces that are passed as fds; delete it by a link's name. Both on the fd socket."""
    name = f"f{ground.number()}"
    body = {"name": name, "netns": "fd:0", "peer": {"name": f"{name}p", "netns": "fd:1"}}
    fds = [os.open(netns.path, os.O_RDONLY | os.O_CLOEXEC) for netns in (ground.near, ground.far)]
    try:
        made = fd_call(ground.daemon.socket, "POST", "/v1/pairs", body, fds)
        assert made[0] == 201, made
        gone = fd_call(ground.daemon.socket, "DELETE", f"/v1/links/{name}?netns=fd:0", None, fds[:1])
        assert gone[0] == 204, gone
    finally:
        for fd in fds:
            os.close(fd)


def changed(ground: Ground) -> None:
    """Change every kind of attribute of a pair, and delete it."""
    pair = ground.pair("", ground.far.name)
    ground.change(pair, {"mtu": 1400, "alias": "mine", "txqueuelen": 500, "peer": {"address": "02:00:00:00:00:77"}})
    ground.change(pair, {"name": f"c{ground.number()}", "gro": False, "alias": "", "up": True})
    ground.delete(pair)


def moved(ground: Ground) -> None:
    """Move an end through the API to another namespace and back, and delete the pair."""
    pair = ground.pair("", ground.near.name)
    for target in (ground.far, ground.near):
        ground.change(pair, {"peer": {"netns": target.name, "up": True}})
    ground.delete(pair)


def saved(ground: Ground) -> None:
    """Save a pair, and delete it."""
    pair = ground.pair()
    ground.ask("POST", "/v1/save")
    ground.delete(pair)


def attached(ground: Ground) -> None:
    """Attach a container to a bridge, and detach it."""
    with _Container(ground) as container:
        container.attach()
        ground.ask("DELETE", container.path)


def reloaded(ground: Ground) -> None:
    """Declare a pair with a reload, and remove it with the next one."""
    number = ground.number()
    ground.configure(toml_pair((f"r{number}", ground.near.name), (f"r{number}p", ground.far.name)))
    ground.wait_state("alive")
    ground.configure("")


# --- by other programs


def link_deleted(ground: Ground) -> None:
    """Delete a pair's link over rtnetlink, as `ip link del` does."""
    pair = ground.pair(ground.near.name, ground.far.name)
    ground.up(pair)
    _link(ground.near, RTM_DELLINK, pair["links"][0]["name"])
    ground.wait_gone(pair)


def peer_deleted(ground: Ground) -> None:
    """Delete the link of a pair's other end over rtnetlink."""
    pair = ground.pair("", ground.far.name)
    _link(ground.far, RTM_DELLINK, pair["links"][1]["name"])
    ground.wait_gone(pair)


def renamed(ground: Ground) -> None:
    """Rename a link over rtnetlink, and delete it."""
    pair, name = ground.pair("", ground.far.name), f"n{ground.number()}"
    _link(ground.far, RTM_NEWLINK, pair["links"][1]["name"], (IFLA_IFNAME, text(name)))
    _link(ground.far, RTM_DELLINK, name)
    ground.wait_gone(pair)


def namespace_deleted(ground: Ground) -> None:
    """Set a pair up, and delete the namespace of an end, as `ip netns del` does."""
    netns = ground.netns()
    pair = ground.pair("", netns.name)
    ground.up(pair)
    netns.delete()
    ground.wait_gone(pair)


def moved_by_others(ground: Ground) -> None:
    """Move an end over rtnetlink to a namespace that the daemon has not used, and delete that namespace."""
    netns = ground.netns()
    pair = ground.pair("", ground.far.name)
    with netns.path.open("rb") as file:
        _link(ground.far, RTM_NEWLINK, pair["links"][1]["name"], (IFLA_NET_NS_FD, u32(file.fileno())))
    ground.change(pair, {"peer": {"up": True}})
    netns.delete()
    ground.wait_gone(pair)


def namespace_deleted_later(ground: Ground) -> None:
    """Delete a pair through the API, and then its namespace."""
    netns = ground.netns()
    ground.delete(ground.pair(netns.name))
    netns.delete()


def container_deleted(ground: Ground) -> None:
    """Attach a container, and delete its namespace."""
    with _Container(ground) as container:
        pair = container.attach()
    ground.wait_gone(pair)


def declared(ground: Ground) -> None:
    """Declare a pair whose namespace does not exist, make and delete the namespace, and remove the pair.

    It is made with the namespace, waits again without it, and is removed with a reload.
    """
    number, name = ground.number(), f"{PREFIX}d{ground.number()}"
    ground.configure(toml_pair((f"d{number}", name), (f"d{number}p", "")))
    ground.wait_state("waiting")
    netns = Netns.create(name)
    try:
        ground.wait_state("alive")
    finally:
        netns.delete()
    ground.wait_state("waiting")
    ground.configure("")


# --- refused requests, queries, and closed connections


def refused(ground: Ground) -> None:
    """Make a request that is refused: for each of several reasons in turn, before anything is made and after."""
    number = ground.number()
    name = {"name": f"x{number}"}
    refusals = (
        ("POST", "/v1/pairs", name | {"netns": f"nobody{number}"}, 404),
        ("POST", "/v1/pairs", name | {"peer": name}, 409),
        ("POST", "/v1/pairs", name | {"netns": ground.near.name, "master": "none"}, 404),
        ("POST", "/v1/pairs", name | {"peer": {"up": True}}, 400),
        ("POST", "/v1/pairs", name | {"mtu": 7}, 400),
        ("POST", "/v1/pairs", name | {"netns": "fd:0"}, 400),
        ("DELETE", f"/v1/pairs/p{number}x", None, 404),
    )
    ground.ask(*refusals[number % len(refusals)])


def asked(ground: Ground) -> None:
    """Make every kind of query while a pair exists, and delete the pair."""
    pair = ground.pair("", ground.far.name)
    for path in ("pairs", "links", "stats", "engine", "health", "attachments", f"links/a{ground.number()}"):
        ground.daemon.request("GET", f"/v1/{path}")
    for path in ("/metrics", "/v1/openapi.json", f"/nowhere/{ground.number()}", "/v1/events/none"):
        _raw(ground, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    ground.delete(pair)


def heard(ground: Ground) -> None:
    """Subscribe to the events, and close the connection."""
    connection = UnixConnection(ground.daemon.socket)
    connection.request("GET", "/v1/events")
    response: http.client.HTTPResponse = connection.getresponse()
    assert response.status == 200
    response.close()
    connection.close()


def hung_up(ground: Ground) -> None:
    """Close connections to both sockets: after no data, after half a request, and after nonsense."""
    for kind, path in (
        (socket.SOCK_STREAM, ground.daemon.socket),
        (socket.SOCK_SEQPACKET, f"{ground.daemon.socket}.fd"),
    ):
        for said in (b"", b"POST /v1/pairs HTTP/1.1\r\nContent-Length: 90\r\n\r\n{", b"\0nonsense\r\n\r\n"):
            with socket.socket(socket.AF_UNIX, kind) as sock:
                sock.connect(str(path))
                if said:
                    sock.send(said)


Way = Callable[[Ground], None]

LONE: tuple[Way, ...] = (saved, reloaded, declared)
TOGETHER: tuple[Way, ...] = (
    deleted, deleted_by_fd, changed, moved, attached, link_deleted, peer_deleted, renamed, namespace_deleted,
    moved_by_others, namespace_deleted_later, container_deleted, refused, asked, heard, hung_up,
)  # fmt: skip
WAYS = {way.__name__.replace("_", " "): way for way in (*TOGETHER, *LONE)}


def live(ground: Ground, way: Way, rounds: int, pool: ThreadPoolExecutor) -> None:
    """Run that many rounds of a way, at the same time in all threads of the pool if the way allows it."""
    go = map if way in LONE else pool.map
    for _ in go(lambda _: way(ground), range(rounds)):
        pass


class _Container:
    """A container's namespace, and its attachment to a bridge of the daemon's namespace. A context manager."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._netns = ground.netns()
        self._name = f"c{ground.number()}"
        self.path = f"/v1/attachments/net/{self._name}/eth0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._netns.delete()

    def attach(self) -> Pair:
        ip = {"address": "10.7.0.2/16", "gateway": "10.7.0.1"}
        body = {"network": "net", "container": self._name, "ifname": "eth0", "netns": self._netns.name, "ips": [ip]}
        told = self._ground.ask("POST", "/v1/attachments", body | {"bridge": {"name": BRIDGE}})
        return {"id": told["pair"]}


def _link(netns: Netns, kind: int, name: str, *attrs: tuple[int, bytes]) -> None:
    """Send a request for the link of that name."""
    with Rtnl(netns) as sock:
        found = sock.getlink(name)
        assert found is not None, f"no {name}"
        all_attrs: Attrs = list(attrs)
        sock.request(kind, 0, ifinfomsg(found.ifindex) + nest(all_attrs))


def _raw(ground: Ground, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(ground.daemon.socket))
        sock.sendall(data)
        while sock.recv(1 << 16):
            pass
