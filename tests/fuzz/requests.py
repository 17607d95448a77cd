"""What the fd-passing socket takes: JSON of method, path with its query, and body. The operations are HTTP's, too.

Beneath it is a manager that knows one pair, root's, and refuses everything else: so that what comes to it is what a
caller may ask for. Nobody but an administrator may come to it with a change.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec

from tests.lib.fake_daemon import link_info, pair_info
from vethd.doors.callers import Caller
from vethd.doors.fdpass import FdDoor
from vethd.doors.routing import STATUS, Api, Reply
from vethd.model.api import EngineChange, EngineInfo, ErrorBody, PairChange
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec, validate_link, validate_pair
from vethd.model.state import Side

ROOT, STRANGER = Caller(0, admin=True), Caller(1000, admin=False)
T = TypeVar("T")


class _Manager:
    """Knows p1 with va and vb."""

    def __init__(self) -> None:
        self.entry = SimpleNamespace(id="p1", spec=PairSpec(name="va"), live=None, fds=None, source="runtime", owner=0)
        self.entries = {"p1": self.entry}
        self.changes = 0
        self.reconciled = None
        self.tuning = SimpleNamespace(engine=SimpleNamespace(name="asyncio"), info=self.engine)
        self.workers = SimpleNamespace(nursery=SimpleNamespace(own_inode=1), chore=self.chore)

    def engine(self) -> EngineInfo:
        return EngineInfo(name="asyncio", workers=0, spin_us=None, gro=True, fallback="")

    async def chore(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    async def newlink(self, spec: PairSpec, **_: Any) -> None:
        self.changes += 1
        validate_pair(spec)
        raise VethError(errno.EEXIST, "newlink", spec.name or "")

    async def changelink(self, _entry: Any, change: PairChange, _fds: Any) -> None:
        self.changes += 1
        for link in (LinkSpec(**change.attributes()), change.peer or LinkSpec()):
            validate_link(link, "changelink")

    async def dellink(self, _entry: Any) -> None:
        self.changes += 1

    async def forget(self, _entry: Any) -> None:
        self.changes += 1

    async def reload(self) -> None:
        self.changes += 1
        raise VethError(errno.EOPNOTSUPP, "reload")

    save = reload

    def change_engine(self, change: EngineChange) -> None:
        self.changes += 1
        assert change.spin_us is None or 0 <= change.spin_us <= 1000

    def find(self, name: str, _label: str | None, owner: int) -> tuple[Any, Side]:
        assert owner in (0, STRANGER.uid)
        if name not in ("va", "vb"):
            raise VethError(errno.ENODEV, "getlink", name)
        return self.entry, Side.FAR if name == "vb" else Side.NEAR

    def info(self, _entry: Any) -> Any:
        return pair_info()

    def links(self) -> list[Any]:
        return [link_info("va", "vb")]

    async def stats(self, _wanted: Any) -> list[Any]:
        return []


def one_input(data: bytes) -> None:
    """Make the request as root, and as somebody else: an answer that can be sent, and no change by the latter."""
    for caller in (ROOT, STRANGER):
        manager = _Manager()
        door = FdDoor.__new__(FdDoor)
        door._api = Api(manager, manager, manager.reload)  # type: ignore[arg-type]
        reply = _at_once(door._answer(data, [], caller))
        msgspec.json.encode({"status": reply.status, "body": reply.body})
        if reply.status >= 400:
            assert isinstance(reply.body, ErrorBody)
            assert reply.status in {*STATUS.values(), 405}, reply
            assert reply.body.message
        if caller is STRANGER:
            assert manager.changes == 0


def _at_once(answer: Coroutine[Any, Any, Reply]) -> Reply:
    try:
        answer.send(None)
    except StopIteration as end:
        reply: Reply = end.value
        return reply
    raise AssertionError("it waits for something")
