"""The API's operations about single frames; operations.py adds them to its table.

What is in a frame is more than a counter: it is shown only to administrators and to the pair's owner.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping

from vethd.doors import rights
from vethd.doors.lookup import find_link, find_pair
from vethd.doors.routing import Call, Reply, Route
from vethd.model.drops import Drop
from vethd.model.errors import VethError
from vethd.model.insight import DROPS_SHOWN, DROPS_SHOWN_MAX, CaptureInfo, CaptureSpec, DroppedFrames, LinkLatency
from vethd.model.state import Side
from vethd.pairs.capturing import Capture, Plan, allocate
from vethd.pairs.entry import Entry
from vethd.pairs.insight import dropped_frames, link_latency

FILTER_MAX = 256
"""Instructions of a filter of a caller that is not an administrator: it delays the frames of all pairs."""

_SEQ_MAX = (1 << 64) - 1


async def _drops(call: Call) -> DroppedFrames:
    """Show the last dropped frames of every link that the caller may read."""
    entries = [entry for entry in call.api.manager.entries.values() if rights.owned(call.caller, entry)]
    return _answer(call, ((entry, side) for entry in entries for side in Side))


async def _pairdrops(call: Call) -> DroppedFrames:
    """Show the last dropped frames that either end of a pair sent."""
    entry = find_pair(call)
    rights.need_owned(call.caller, entry, "drops")
    return _answer(call, ((entry, side) for side in Side))


async def _linkdrops(call: Call) -> DroppedFrames:
    """Show the last dropped frames that a link sent."""
    entry, side = await find_link(call)
    rights.need_owned(call.caller, entry, "drops", call.path["name"])
    return _answer(call, [(entry, side)])


async def _latencies(call: Call) -> list[LinkLatency]:
    """Show how long frames were in vethd, for every link that the caller may read."""
    entries = [entry for entry in call.api.manager.entries.values() if rights.owned(call.caller, entry)]
    return [link_latency(entry.live, side) for entry in entries if entry.live is not None for side in Side]


async def _linklatency(call: Call) -> LinkLatency:
    """Show how long the frames that a link sent were in vethd."""
    entry, side = await find_link(call)
    rights.need_owned(call.caller, entry, "latency", call.path["name"])
    if entry.live is None:
        raise VethError(errno.ENODEV, "latency", call.path["name"])
    return link_latency(entry.live, side)


async def _capture(call: Call) -> Reply:
    """Capture a pair's frames into shared memory, until the connection is closed."""
    entry = find_pair(call)
    rights.need_owned(call.caller, entry, "capture")
    if call.fds is None:
        raise VethError(errno.EOPNOTSUPP, "capture", reason="it needs the fd-passing socket (docs/api.md)")
    if entry.live is None:
        raise VethError(errno.ENODEV, "capture", entry.id, "the pair waits")
    if not call.caller.admin and len(call.body.filter) > FILTER_MAX:
        reason = f"a filter of {len(call.body.filter)} instructions; other users' may have {FILTER_MAX}"
        raise VethError(errno.EDQUOT, "capture", entry.id, reason)
    plan = Plan(entry.live, call.body)
    leave = call.api.room.buffer(call.caller, plan.size)
    try:
        capture = Capture(plan, await call.api.manager.workers.chore(allocate, plan.size))
    except BaseException:
        leave()
        raise
    return Reply(200, capture.info, _Session(capture, leave))


class _Session:
    """A capture, and the room for its buffer."""

    def __init__(self, capture: Capture, leave: Callable[[], None]) -> None:
        self._capture, self._leave = capture, leave
        self.ended = capture.ended
        self.fds = capture.fds
        self.end = capture.end

    def close(self) -> None:
        self._capture.close()
        self._leave()


def _answer(call: Call, wanted: Iterable[tuple[Entry, Side]]) -> DroppedFrames:
    most = _number(call.query, "n", DROPS_SHOWN, DROPS_SHOWN_MAX)
    after = _number(call.query, "after", 0, _SEQ_MAX)
    pairs = [(entry.live, side) for entry, side in wanted if entry.live is not None]
    return dropped_frames(pairs, most, _reason(call.query.get("reason")), after)


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """Return a parameter of the query. Raises VethError EINVAL if it is no number from 0 to most."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(most)) or int(text) > most:
        raise VethError(errno.EINVAL, "drops", reason=f"{name} must be a number from 0 to {most}, not {text!r}")
    return int(text)


def _reason(label: str | None) -> Drop | None:
    """Return the reason of that name, None if label is. Raises VethError EINVAL."""
    if label is None:
        return None
    for drop in Drop:
        if drop.label == label:
            return drop
    raise VethError(
        errno.EINVAL, "drops", reason=f"no drop reason {label!r}: it is one of {', '.join(drop.label for drop in Drop)}"
    )


_QUERY = ("n", "reason", "after")

ROUTES = (
    Route("GET", "/v1/drops", _drops, None, DroppedFrames, query=_QUERY),
    Route("GET", "/v1/pairs/{id}/drops", _pairdrops, None, DroppedFrames, query=_QUERY),
    Route("GET", "/v1/links/{name}/drops", _linkdrops, None, DroppedFrames, query=_QUERY),
    Route("GET", "/v1/latency", _latencies, None, list[LinkLatency]),
    Route("GET", "/v1/links/{name}/latency", _linklatency, None, LinkLatency),
    Route("POST", "/v1/pairs/{id}/capture", _capture, CaptureSpec, CaptureInfo),
)
