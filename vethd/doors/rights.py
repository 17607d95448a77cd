"""The operations that a caller without administrator rights may use, and the fields that it may see.

Such a caller may make pairs between network namespaces that belong to it. It sends the namespaces as file descriptors:
a name, a path or a PID would be opened with the daemon's rights and could refer to any namespace. It may change a pair
that it made, as long as both ends are in namespaces that belong to it (root may have moved an end elsewhere). It may
delete every pair that it made.

Of other users' pairs it sees that they exist, the names of their ends, their namespaces and their states: every user
can read the names of namespaces in /run/netns, and the list shows why a name is taken. It does not see addresses (IPv6
addresses are derived from them), free text (alias, altname, master, reason) or counters: the kernel, too, shows a
link's traffic only inside its namespace.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

import msgspec

from vethd.doors.callers import Caller
from vethd.doors.routing import Api, Call
from vethd.kernel import netns
from vethd.kernel.owner import owns
from vethd.kernel.tun import Tap
from vethd.model.api import LinkInfo, PairEvent, PairInfo
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs.entry import Entry

FD_PREFIX = "fd:"


def need_admin(caller: Caller, op: str) -> None:
    """Check that the caller is an administrator. Raises VethError EPERM."""
    if not caller.admin:
        raise VethError(errno.EPERM, op, reason="only root and members of vethd's admin group may do this")


def owned(caller: Caller, entry: Entry) -> bool:
    """Return whether the caller owns the pair or is an administrator."""
    return caller.admin or entry.owner == caller.owner


def need_owned(caller: Caller, entry: Entry, op: str, ifname: str = "") -> None:
    """Check that the caller owns the pair or is an administrator. Raises VethError EPERM."""
    if not owned(caller, entry):
        raise VethError(errno.EPERM, op, ifname or entry.id, "the pair belongs to another user")


async def check_ends(call: Call, op: str, ends: Iterable[LinkSpec]) -> None:
    """Check that the namespace of every end belongs to the caller. Raises VethError EPERM, EINVAL."""
    if call.caller.admin:
        return
    refs = [(end.name or "", end.netns or "") for end in ends]
    for name, ref in refs:
        if not ref.startswith(FD_PREFIX):
            what = f"netns {ref!r}" if ref else "vethd's own namespace"
            reason = f"only administrators may name {what}: send the file descriptor of a namespace of yours"
            raise VethError(errno.EPERM, op, name, reason)
    for name, ref in refs:
        if not await call.api.manager.workers.chore(_owns_ref, call.caller.uid, ref, call.fds):
            reason = f"the namespace sent as {ref!r} does not belong to a user namespace of uid {call.caller.uid}"
            raise VethError(errno.EPERM, op, name, reason)


async def check_change(call: Call, entry: Entry, ends: Iterable[LinkSpec], op: str = "changelink") -> None:
    """Check that the caller may change the pair, and move its ends as ends request. Raises VethError EPERM, EINVAL."""
    need_owned(call.caller, entry, op, call.path.get("name", ""))
    if call.caller.admin:
        return
    await check_ends(call, op, [end for end in ends if end.netns is not None])
    if entry.live is not None:
        taps = [link.tap for link in entry.live.links]
        if not await call.api.manager.workers.chore(_owns_places, call.caller.uid, taps):
            raise VethError(errno.EPERM, op, entry.id, "an end of the pair is in a namespace that is not yours")


def check_quota(call: Call, spec: PairSpec) -> None:
    """Check that the caller may have one more pair. Raises VethError EDQUOT."""
    entries = call.api.manager.entries.values()
    call.api.policy.check_quota(call.caller, spec, ((entry.owner, entry.spec) for entry in entries))


def pair_shown(caller: Caller, info: PairInfo) -> PairInfo:
    """Return a pair's description without the fields that the caller may not see."""
    if _shown_whole(caller, info.owner):
        return info
    links = [_without_details(link) for link in info.links]
    return msgspec.structs.replace(info, spec=PairSpec(), reason="", links=links, attachment=None)


def links_shown(api: Api, caller: Caller, links: Sequence[LinkInfo]) -> list[LinkInfo]:
    """Return links' descriptions without the fields that the caller may not see."""
    return [link if _shown_whole(caller, _owner(api, link.pair)) else _without_details(link) for link in links]


def event_shown(api: Api, caller: Caller, event: PairEvent) -> PairEvent:
    """Return an event; remove its detail if it is about a pair that the caller does not own or that is gone."""
    if not event.detail or not event.pair or _shown_whole(caller, _owner(api, event.pair)):
        return event
    return msgspec.structs.replace(event, detail="")


def _shown_whole(caller: Caller, owner: int | None) -> bool:
    return caller.admin or owner == caller.owner


def _owner(api: Api, pair_id: str) -> int | None:
    entry = api.manager.entries.get(pair_id)
    return entry.owner if entry is not None else None


def _without_details(link: LinkInfo) -> LinkInfo:
    return msgspec.structs.replace(link, address="", alias="", altname="", master="")


def _owns_ref(uid: int, ref: str, fds: Sequence[int] | None) -> bool:
    """Return whether the namespace sent as ref belongs to uid; for a worker thread."""
    fd = netns.open_ref(ref, fds)
    try:
        return owns(uid, fd)
    finally:
        os.close(fd)


def _owns_places(uid: int, taps: Iterable[Tap]) -> bool:
    """Return whether the devices' present namespaces belong to uid; for a worker thread."""
    for tap in taps:
        with tap.lock:
            fd = tap.netns_fd()
        try:
            if not owns(uid, fd):
                return False
        finally:
            os.close(fd)
    return True
