"""dispatch(): which handler a request comes to, what it is given, and which status each failure has."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.lib.fake_daemon import link_info, link_stats, pair_info
from vethd.datapath.engine import Counters, Dropped, Latency
from vethd.datapath.engines import Picked
from vethd.doors.callers import Caller
from vethd.doors.operations import ROUTES, dispatch
from vethd.doors.routing import STATUS, Api, Call, Reply
from vethd.model.api import EngineChange, EngineInfo, ErrorBody, PairChange, Saved
from vethd.model.drops import Drop
from vethd.model.errors import ConfigError, VethError
from vethd.model.latency import BUCKETS
from vethd.model.spec import LinkSpec, PairSpec
from vethd.model.state import Side
from vethd.pairs.tuning import Tuning

ROOT = Caller(0, admin=True)
RELOADED = {"created": 1, "changed": 2, "deleted": 3, "waiting": 4}


class StubPair:
    """va in no namespace and vb in "blue"; va has dropped three frames, two of them oversize."""

    id = "p1"

    @property
    def wire(self) -> StubPair:
        return self

    links = tuple(
        SimpleNamespace(state=SimpleNamespace(name=name), label=label) for name, label in (("va", ""), ("vb", "blue"))
    )

    def counters(self, side: Side) -> Counters:  # noqa: ARG002 - the same for both
        return Counters(drops=tuple(2 * (drop is Drop.OVERSIZE) + (drop is Drop.RUNT) for drop in Drop))

    def latency(self, _side: Side) -> Latency:
        return Latency((1,) * BUCKETS, 5)

    def dropped(self, side: Side) -> list[Dropped]:
        found = [Dropped(n, n, Drop.OVERSIZE, 0, 1, 1600, 1518, b"v" * 10, b"d" * 128) for n in (1, 3)]
        runt = Dropped(2, 2, Drop.RUNT, errno.EIO, 1, 13, 1518, b"v" * 10, b"d" * 13)
        return [found[0], runt, found[1]] if side is Side.NEAR else []


class StubManager:
    """Knows one pair, p1: va in no namespace, vb in "blue". Remembers what it was asked; refuses if told so."""

    def __init__(self) -> None:
        self.entry = SimpleNamespace(
            id="p1", spec=PairSpec(name="va"), live=StubPair(), fds=None, source="runtime", owner=0
        )
        self.entries = {"p1": self.entry}
        self.reconciled = None
        self.asked: list[tuple[Any, ...]] = []
        self.refusal: BaseException | None = None
        self.tuning = Tuning(Picked(SimpleNamespace(name="asyncio")), gro=True)
        nursery = SimpleNamespace(own_inode=4026531840)
        self.workers = SimpleNamespace(nursery=nursery, chore=self.chore)

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.refusal is not None:
            raise self.refusal

    async def chore(self, function: Callable[..., Any], *args: Any) -> Any:
        self._ask("chore", args[0])
        return function(*args)

    async def newlink(self, spec: PairSpec, fds: Sequence[int] | None = None) -> Any:
        self._ask("newlink", spec, fds)
        return self.entry

    async def changelink(self, entry: Any, change: PairChange, fds: Sequence[int] | None = None) -> None:
        self._ask("changelink", entry.id, change, fds)

    async def dellink(self, entry: Any) -> None:
        self._ask("dellink", entry.id)

    async def forget(self, entry: Any) -> None:
        self._ask("forget", entry.id)

    def change_engine(self, change: EngineChange) -> None:
        self._ask("change_engine", change)
        self.tuning.change(change)

    def find(self, name: str, label: str | None = None, owner: int = 0) -> tuple[Any, Side]:
        assert owner == 0
        self._ask("find", name, label)
        return self.entry, Side.FAR if name == "vb" else Side.NEAR

    def info(self, _entry: Any) -> Any:
        return pair_info()

    def links(self) -> list[Any]:
        return [link_info("va", "vb")]

    async def stats(self, wanted: Any = None) -> list[Any]:
        self._ask("stats", wanted and wanted[0][1])
        return [link_stats("va", "vb")]

    async def save(self) -> Saved:
        self._ask("save")
        return Saved(pairs=1, file="/x")

    async def reload(self) -> dict[str, int]:
        self._ask("reload")
        return RELOADED


@pytest.fixture
def manager() -> StubManager:
    return StubManager()


def ask(
    manager: StubManager,
    method: str,
    path: str,
    body: bytes | dict[str, Any] = b"",
    query: Mapping[str, str] | None = None,
    *,
    reload: bool = True,
    fds: Sequence[int] | None = None,
) -> Reply:
    api = Api(manager, manager, manager.reload if reload else None)  # type: ignore[arg-type]
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return asyncio.run(dispatch(Call(api, ROOT, {}, query or {}, None, fds), method, path, data))


def refused(reply: Reply) -> tuple[int, str, int]:
    assert isinstance(reply.body, ErrorBody)
    return reply.status, reply.body.code, reply.body.errno


# an attachment is nothing without a kernel, and a capture nothing without descriptors: tests/system
SHOWN = [route for route in ROUTES if not route.path.startswith("/v1/attachments") and "capture" not in route.path]
CONCRETE = {route: (route.method, route.path.format(id="p1", name="va")) for route in SHOWN}


@pytest.mark.parametrize("path", ["/v1/drops", "/v1/links/va/drops", "/v1/pairs/p1/drops"])
def test_dropped_frames(manager: StubManager, path: str) -> None:
    def found(**query: str) -> tuple[list[int], int, int]:
        body = ask(manager, "GET", path, query=query).body
        return [frame.seq for frame in body.frames], body.total, body.seq

    ends = 1 if path == "/v1/links/va/drops" else 2
    assert found() == ([1, 2, 3], 3 * ends, 3)
    assert found(n="2") == ([2, 3], 3 * ends, 3)
    assert found(after="2") == ([3], 3 * ends, 3)
    assert found(reason="oversize") == ([1, 3], 2 * ends, 3)
    assert found(reason="stale") == ([], 0, 3)
    assert found(after=str((1 << 64) - 1)) == ([], 3 * ends, 3)
    frame = ask(manager, "GET", path).body.frames[1]
    assert (frame.link, frame.peer_name, frame.peer_netns) == ("va", "vb", "blue")
    assert (frame.reason, frame.errno, frame.length, frame.data) == ("runt", "EIO", 13, b"d" * 13)


@pytest.mark.parametrize(
    "query", [{"n": "-1"}, {"n": "1001"}, {"n": "x"}, {"n": ""}, {"n": "٣"}, {"after": "1" * 30}, {"reason": "bored"}]
)
def test_dropped_frames_by_a_bad_query(manager: StubManager, query: dict[str, str]) -> None:
    reply = ask(manager, "GET", "/v1/drops", query=query)
    assert refused(reply) == (400, "EINVAL", errno.EINVAL)
    assert next(iter(query)) in reply.body.message


@pytest.mark.parametrize("route", SHOWN, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_answers_as_it_says(manager: StubManager, route: Any) -> None:
    reply = ask(manager, *CONCRETE[route])
    assert reply.status == route.status
    if route.reply is None:
        assert reply.body is None
    else:
        msgspec.json.decode(msgspec.json.encode(reply.body), type=route.reply, strict=True)


@pytest.mark.parametrize("path", sorted({path for _, path in CONCRETE.values()}))
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "BREW", "get"])
def test_other_methods_are_405_and_say_which_are_right(manager: StubManager, method: str, path: str) -> None:
    allowed = {known for known, where in CONCRETE.values() if where == path}
    reply = ask(manager, method, path)
    if method in allowed:
        assert reply.status < 400
        return
    assert refused(reply) == (405, "METHOD", 0)
    assert all(known in reply.body.message for known in allowed)
    assert manager.asked == []


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1", "/v1/", "/v1/pairs/", "/v1/pair", "/v2/pairs", "/v1/pairs/p1/x", "//v1/pairs", "/V1/pairs",
     "v1/pairs", "/v1/links/va/stats/", "/v1/links/a/b"],
)  # fmt: skip
def test_no_such_path(manager: StubManager, path: str) -> None:
    status, code, _ = refused(ask(manager, "GET", path))
    # an empty last part is an empty name, which nothing has
    assert (status, code) == (404, "ENOENT" if path == "/v1/pairs/" else "PATH")


def test_no_such_pair(manager: StubManager) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        assert refused(ask(manager, method, "/v1/pairs/p2")) == (404, "ENOENT", errno.ENOENT)
    assert manager.asked == []


@pytest.mark.parametrize(
    ("quoted", "name"),
    [("va", "va"), ("v%61", "va"), ("a%25d", "a%d"), ("a%2525", "a%25"), ("gr%C3%BCn", "grün"), ("va%40vb", "va@vb"),
     ("va@vb", "va@vb"), ("a%2Fb", "a/b"), ("a+b", "a+b"), ("%FF", "�"), ("100%", "100%")],
)  # fmt: skip
def test_names_are_percent_encoded(manager: StubManager, quoted: str, name: str) -> None:
    assert ask(manager, "GET", f"/v1/links/{quoted}").status == 200
    assert ask(manager, "GET", f"/v1/links/{quoted}/stats").status == 200
    assert [asked[1] for asked in manager.asked if asked[0] == "find"] == [name, name]


def test_netns_of_a_link(manager: StubManager) -> None:
    """Left out, empty (the daemon's own), one that cannot be opened (a label that we know), an fd that was not sent."""
    ask(manager, "GET", "/v1/links/va")
    ask(manager, "GET", "/v1/links/va", query={"netns": ""})
    ask(manager, "GET", "/v1/links/va", query={"netns": "no-such-netns"})
    assert [asked[2] for asked in manager.asked if asked[0] == "find"] == [None, "", "no-such-netns"]
    assert refused(ask(manager, "GET", "/v1/links/va", query={"netns": "fd:0"})) == (400, "EBADF", errno.EBADF)


def test_change_of_a_link_is_a_change_of_its_side(manager: StubManager) -> None:
    ask(manager, "PATCH", "/v1/links/va", {"mtu": 1400, "alias": ""})
    ask(manager, "PATCH", "/v1/links/vb", {"mtu": 1400}, fds=[7])
    changes = [asked[2:] for asked in manager.asked if asked[0] == "changelink"]
    assert changes == [(PairChange(mtu=1400, alias=""), None), (PairChange(peer=LinkSpec(mtu=1400)), [7])]


def test_deletion_is_told_to_who_saves(manager: StubManager) -> None:
    ask(manager, "DELETE", "/v1/pairs/p1")
    ask(manager, "DELETE", "/v1/links/vb")
    assert [asked[0] for asked in manager.asked] == ["dellink", "forget", "find", "dellink", "forget"]


def test_engine_is_shown_and_changed(manager: StubManager) -> None:
    before = EngineInfo(name="asyncio", workers=0, spin_us=None, gro=True, fallback="")
    assert ask(manager, "GET", "/v1/engine").body == before
    assert ask(manager, "PATCH", "/v1/engine", {"gro": False}).body == msgspec.structs.replace(before, gro=False)
    reply = ask(manager, "PATCH", "/v1/engine", {"gro": True, "spin_us": 20})
    assert refused(reply) == (400, "EOPNOTSUPP", errno.EOPNOTSUPP)
    assert reply.body.message == "engine: the asyncio engine has no spin_us"
    assert ask(manager, "GET", "/v1/engine").body.gro is False


@pytest.mark.parametrize("body", [{"spin_us": -1}, {"spin_us": 1001}, {"spin_us": "1"}, {"gro": 1}, {"workers": 2}])
def test_engine_takes_nothing_else(manager: StubManager, body: dict[str, Any]) -> None:
    assert refused(ask(manager, "PATCH", "/v1/engine", body)) == (400, "EINVAL", errno.EINVAL)
    assert manager.asked == []


def test_fds_are_not_remembered(manager: StubManager) -> None:
    """A pair made with fds is later known by the names of its namespaces: the numbers mean nothing any more."""
    body = {"name": "va", "netns": "fd:0", "peer": {"name": "vb", "netns": "fd:1"}}
    manager.entry.spec = msgspec.convert(body, PairSpec)
    assert ask(manager, "POST", "/v1/pairs", body, fds=[5, 6]).status == 201
    assert manager.asked[0][2] == [5, 6]
    assert manager.entry.fds is None
    assert (manager.entry.spec.netns, manager.entry.spec.peer.netns) == ("", "")


BODIES = [("POST", "/v1/pairs"), ("PATCH", "/v1/pairs/p1"), ("PATCH", "/v1/links/va")]
DEEP = b'{"name":' + b"[" * 60000
BAD_BODIES = [
    b"{", b"nonsense", b"[]", b"null", b"1", b'"va"', b"\xff\xfe", b'{"name": "\xff"}', b'{"name": "\xed\xa0\x80"}',
    b'{"name": "\\ud800"}', b'{"mtu": "1500"}', b'{"mtu": 1500.5}', b'{"mtu": true}', b'{"up": 1}', b'{"peers": {}}',
    b'{"addrgenmode": "eui48"}', b"{} {}", b'{"name": "va"', DEEP, b'{"x":' + b"[" * 60000 + b"]" * 60000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: body[:20].decode("ascii", "backslashreplace"))
@pytest.mark.parametrize(("method", "path"), BODIES)
def test_bad_body(manager: StubManager, method: str, path: str, body: bytes) -> None:
    reply = ask(manager, method, path, body)
    assert refused(reply) == (400, "EINVAL", errno.EINVAL)
    assert reply.body.message.startswith("body: ")
    msgspec.json.encode(reply.body)
    assert not [asked for asked in manager.asked if asked[0] != "find"]


def test_unknown_field_is_named(manager: StubManager) -> None:
    for method, path in BODIES:
        assert "mtuu" in ask(manager, method, path, {"mtuu": 1}).body.message
    assert "peer" in ask(manager, "POST", "/v1/pairs", {"peer": {"mtuu": 1}}).body.message
    assert "rx_checksum" in ask(manager, "PATCH", "/v1/links/va", {"rx_checksum": "trust"}).body.message


def test_body_where_none_is_wanted_is_not_looked_at(manager: StubManager) -> None:
    assert ask(manager, "GET", "/v1/pairs", b"nonsense").status == 200


def test_every_errno_has_its_status(manager: StubManager) -> None:
    documented = {
        400: "EINVAL ERANGE EADDRNOTAVAIL EOPNOTSUPP ENOTCONN",
        403: "EPERM EACCES EDQUOT",
        404: "ENOENT ENODEV ESRCH",
        409: "EEXIST EBUSY ENOTUNIQ",
        413: "E2BIG",
        500: "EIO ENOMEM ENFILE EMFILE ENOSPC ETIMEDOUT",
    }
    for status, names in documented.items():
        for name in names.split():
            code = getattr(errno, name)
            manager.refusal = VethError(code, "newlink", "va", "because")
            reply = ask(manager, "POST", "/v1/pairs", {"name": "va"})
            assert refused(reply) == (status, name, code)
            assert reply.body.message == "newlink va: because"
    assert set(STATUS.values()) == set(documented) - {500}


def test_refusals_of_the_config(manager: StubManager) -> None:
    manager.refusal = ConfigError("/etc/x.toml", "pair[0].mtu", "is odd")
    reply = ask(manager, "POST", "/v1/reload")
    assert refused(reply) == (400, "EINVAL", errno.EINVAL)
    assert reply.body.message == "/etc/x.toml: pair[0].mtu: is odd"
    reply = ask(manager, "POST", "/v1/reload", reload=False)
    assert refused(reply) == (400, "EOPNOTSUPP", errno.EOPNOTSUPP)


def test_error_of_our_own_is_a_reply_and_in_the_log(manager: StubManager, capsys: pytest.CaptureFixture[str]) -> None:
    manager.refusal = IndexError("oops")
    assert refused(ask(manager, "POST", "/v1/pairs", {"name": "va"})) == (500, "EIO", errno.EIO)
    assert "oops" in capsys.readouterr().out


def test_error_body_is_what_the_docs_show(manager: StubManager) -> None:
    manager.refusal = VethError(errno.EEXIST, "newlink", "va")
    encoded = json.loads(msgspec.json.encode(ask(manager, "POST", "/v1/pairs", {"name": "va"}).body))
    assert encoded == {"code": "EEXIST", "errno": 17, "message": f"newlink va: {os.strerror(errno.EEXIST)}"}
