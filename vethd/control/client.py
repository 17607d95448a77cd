"""Client: vethd's API as typed, synchronous Python.

    from vethd.control import Client
    from vethd.model.spec import LinkSpec, PairSpec

    client = Client()
    pair = client.create(PairSpec(name="va", up=True, peer=LinkSpec(name="vb", netns="blue", up=True)))

A namespace is given as in LinkSpec, from the caller's point of view: None is the caller's own, "fd:N" is a file
descriptor of the caller. A Client holds no connection open, so threads may share it, and it may outlive the daemon.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import msgspec

from vethd.control.errors import DaemonDown
from vethd.control.netns import NetnsFds, own_inode
from vethd.control.rings import Capture
from vethd.control.transport import Method, Request, Transport, not_ours, segment
from vethd.model.api import (
    EngineChange,
    EngineInfo,
    Health,
    LinkInfo,
    LinkStats,
    PairChange,
    PairEvent,
    PairInfo,
    Saved,
)
from vethd.model.errors import VethError
from vethd.model.insight import DROPS_SHOWN, CaptureInfo, CaptureSpec, DroppedFrames, LinkLatency
from vethd.model.spec import LinkSpec, PairSpec

DEFAULT_SOCKET = "/run/vethd/vethd.sock"
SOCKET_VARIABLE = "VETHD_SOCKET"

T = TypeVar("T")


class Reloaded(msgspec.Struct, kw_only=True, frozen=True):
    """Reply of POST /v1/reload: the numbers of pairs created, changed and deleted, and of those that wait."""

    created: int
    changed: int
    deleted: int
    waiting: int


class Client:
    """A client of one daemon.

    Every method blocks for up to timeout_s (events() for longer). It raises VethError with the kernel's errno if
    the daemon or the kernel refuses the request, and DaemonDown if no daemon answers.
    """

    def __init__(self, socket: str | None = None, timeout_s: float = 30.0) -> None:
        """Use that control socket; None is $VETHD_SOCKET, or /run/vethd/vethd.sock. Opens no connection yet."""
        self.socket = socket or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET
        self._transport = Transport(self.socket, timeout_s)

    def pairs(self) -> list[PairInfo]:
        """Return all pairs, waiting ones included."""
        return self._ask(list[PairInfo], Request("GET", "/v1/pairs"))

    def pair(self, id: str) -> PairInfo:  # noqa: A002  the API's own word
        """Return one pair. Raises VethError ENOENT."""
        return self._ask(PairInfo, Request("GET", f"/v1/pairs/{segment(id)}"))

    def create(self, spec: PairSpec) -> PairInfo:
        """Make a pair, all or nothing. Raises VethError with the errno of the kernel's veth, e.g. EEXIST.

        newlink refuses `up` on the peer, as it makes the peer first. So this method brings the peer up after it has
        made the pair; if that fails, it deletes the pair again.
        """
        peer_up = spec.peer is not None and spec.peer.up is True

        def create(fds: NetnsFds) -> PairInfo:
            body = self._own_netns(spec, fds)
            if body.peer is not None and peer_up:
                body = msgspec.structs.replace(body, peer=msgspec.structs.replace(body.peer, up=None))
            return self._ask(PairInfo, Request("POST", "/v1/pairs", body=body, fds=fds.fds))

        info = _by_name_or_fd("newlink", spec.name or "", create)
        if not peer_up:
            return info
        try:
            return self.change(info.id, PairChange(peer=LinkSpec(up=True)))
        except BaseException:
            with contextlib.suppress(VethError, DaemonDown):
                self.delete(info.id)
            raise

    def change(self, id: str, change: PairChange) -> PairInfo:  # noqa: A002  as pair()
        """Apply every attribute that change sets, or none; a netns moves that end. Raises VethError."""

        def send(fds: NetnsFds) -> PairInfo:
            peer = None if change.peer is None else _said_netns(change.peer, fds)
            body = msgspec.structs.replace(_said_netns(change, fds), peer=peer)
            return self._ask(PairInfo, Request("PATCH", f"/v1/pairs/{segment(id)}", body=body, fds=fds.fds))

        return _by_name_or_fd("changelink", change.name or "", send)

    def delete(self, id: str) -> None:  # noqa: A002  as pair()
        """Delete a pair, both ends. Raises VethError ENOENT."""
        self._transport.send(Request("DELETE", f"/v1/pairs/{segment(id)}"))

    def links(self) -> list[LinkInfo]:
        """Return every living link, two for each pair."""
        return self._ask(list[LinkInfo], Request("GET", "/v1/links"))

    def link(self, name: str, netns: str | None = None) -> LinkInfo:
        """Find one link by its name or altname.

        netns None searches all namespaces; if several links have the name, the one in the caller's own namespace is
        returned. Raises VethError ENODEV, ENOTUNIQ.
        """
        return self._decode(LinkInfo, self._on_link("GET", name, netns=netns))

    def set_link(self, name: str, link: LinkSpec, netns: str | None = None) -> LinkInfo:
        """Apply link's attributes to one link, found as by link(); link.netns moves it. Raises VethError."""
        return self._decode(LinkInfo, self._on_link("PATCH", name, netns=netns, change=link))

    def delete_link(self, name: str, netns: str | None = None) -> None:
        """Delete a link, found as by link(), and its peer. Raises VethError ENODEV, ENOTUNIQ."""
        self._on_link("DELETE", name, netns=netns)

    def stats(self) -> list[LinkStats]:
        """Return the counters of every living link."""
        return self._ask(list[LinkStats], Request("GET", "/v1/stats"))

    def link_stats(self, name: str, netns: str | None = None) -> LinkStats:
        """Return the counters of one link, found as by link(). Raises VethError ENODEV, ENOTUNIQ."""
        return self._decode(LinkStats, self._on_link("GET", name, "/stats", netns=netns))

    def drops(
        self, pair: str | None = None, *, most: int = DROPS_SHOWN, reason: str | None = None, after: int = 0
    ) -> DroppedFrames:
        """Return the newest dropped frames of one pair, by its id, or of all pairs of the caller, at most `most`.

        reason is a name as in LinkStats.drops; after leaves out the frames up to that seq. Raises VethError ENOENT,
        EPERM, EINVAL.
        """
        path = "/v1/drops" if pair is None else f"/v1/pairs/{segment(pair)}/drops"
        query = {"n": str(most), "after": str(after)} | ({} if reason is None else {"reason": reason})
        return self._ask(DroppedFrames, Request("GET", path, query))

    def latency(self) -> list[LinkLatency]:
        """Return how long frames were in vethd, for every living link of the caller."""
        return self._ask(list[LinkLatency], Request("GET", "/v1/latency"))

    def capture(self, pair: str, spec: CaptureSpec) -> Capture:
        """Begin to capture a pair's frames, by its id, into memory shared with the daemon; close() the result.

        Raises VethError ENOENT, EPERM, EDQUOT (the buffer), EINVAL (the filter), ENODEV (the pair waits).
        """
        request = Request("POST", f"/v1/pairs/{segment(pair)}/capture", body=spec)
        body, fds, sock = self._transport.session(request)
        return Capture(self._decode(CaptureInfo, body), fds, sock)

    def save(self) -> Saved:
        """Save the run-time pairs to the state directory; the daemon makes them again at boot."""
        return self._ask(Saved, Request("POST", "/v1/save"))

    def reload(self) -> Reloaded:
        """Have the daemon read its configuration again and apply the differences."""
        return self._ask(Reloaded, Request("POST", "/v1/reload"))

    def engine(self) -> EngineInfo:
        """Return the engine, and the settings for all pairs."""
        return self._ask(EngineInfo, Request("GET", "/v1/engine"))

    def set_engine(self, change: EngineChange) -> EngineInfo:
        """Change the settings for all pairs, until the daemon's next reload. Raises VethError EOPNOTSUPP."""
        return self._ask(EngineInfo, Request("PATCH", "/v1/engine", body=change))

    def health(self) -> Health:
        """Return the daemon's health."""
        return self._ask(Health, Request("GET", "/v1/health"))

    def metrics(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return self._transport.send(Request("GET", "/metrics")).decode()

    def openapi(self) -> dict[str, Any]:
        """Return the API's OpenAPI document."""
        return self._ask(dict[str, Any], Request("GET", "/v1/openapi.json"))

    def events(self) -> Generator[PairEvent, None, None]:
        """Yield events from now on, as they happen; ends when the daemon stops.

        The iterator owns a connection: exhaust it, or call close().
        """
        for line in self._transport.stream(Request("GET", "/v1/events")):
            if line:
                yield self._decode(PairEvent, line)

    def _ask(self, type_: type[T], request: Request) -> T:
        return self._decode(type_, self._transport.send(request))

    def _decode(self, type_: type[T], body: bytes) -> T:
        try:
            return msgspec.json.decode(body, type=type_)
        except msgspec.MsgspecError as error:
            raise not_ours(self.socket, error) from error

    def _on_link(
        self, method: Method, name: str, suffix: str = "", *, netns: str | None, change: LinkSpec | None = None
    ) -> bytes:
        """Send a request about one link; if its name is ambiguous, ask again for the caller's own namespace."""

        def send(fds: NetnsFds) -> bytes:
            body = None if change is None else _said_netns(change, fds)
            query = {} if netns is None else {"netns": fds.resolve(netns)}
            request = Request(method, f"/v1/links/{segment(name)}{suffix}", query, body, fds.fds)
            try:
                return self._transport.send(request)
            except VethError as error:
                if error.errno != errno.ENOTUNIQ or netns is not None:
                    raise
                ambiguous = error
            try:
                own = "" if self._is_home() else fds.own()
                return self._transport.send(request._replace(query={"netns": own}))
            except VethError as error:
                raise (ambiguous if error.errno == errno.ENODEV else error) from None

        return _by_name_or_fd({"GET": "getlink", "DELETE": "dellink"}.get(method, "changelink"), name, send)

    def _is_home(self) -> bool:
        """Return whether the caller and the daemon are in the same network namespace."""
        return self.health().netns_inode == own_inode()

    def _own_netns(self, spec: PairSpec, fds: NetnsFds) -> PairSpec:
        """Fill in the caller's own namespace where none is given, and resolve those that are given.

        A peer without a spec of its own follows the near end.
        """
        unsaid = spec.netns is None or (spec.peer is not None and spec.peer.netns is None)
        own = fds.own() if unsaid and (fds.by_fd or not self._is_home()) else None
        fds.named = fds.named or (unsaid and own is None)
        peer = spec.peer
        if peer is not None:
            peer = msgspec.structs.replace(peer, netns=own if peer.netns is None else fds.resolve(peer.netns))
        near = own if spec.netns is None else fds.resolve(spec.netns)
        return msgspec.structs.replace(spec, netns=near, peer=peer)


def _by_name_or_fd(op: str, ifname: str, send: Callable[[NetnsFds], T]) -> T:
    """Send a request with namespaces by name; if the daemon refuses names (EPERM), open all of them here."""
    with NetnsFds(op, ifname) as fds:
        try:
            return send(fds)
        except VethError as error:
            if error.errno != errno.EPERM or not fds.named:
                raise
    with NetnsFds(op, ifname, by_fd=True) as fds:
        return send(fds)


_Link = TypeVar("_Link", bound=LinkSpec)


def _said_netns(link: _Link, fds: NetnsFds) -> _Link:
    """Resolve the namespace of a change; None leaves the link in its namespace."""
    return link if link.netns is None else msgspec.structs.replace(link, netns=fds.resolve(link.netns))
