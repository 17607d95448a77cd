"""What a caller who is no administrator may do, and what he is shown.

He may make pairs between network namespaces that are his, which he proves by sending their file descriptors: a name, a
path or a PID would be opened with the daemon's rights, and might name anything. He may change and delete the pairs that
he made, as long as both their ends are in namespaces of his: root may have moved one into another.

Of other people's pairs he is shown that they are there, what their ends are called, where they are and whether they
run: /run/netns tells everybody the names of namespaces, and "why is that name taken" should have an answer. He is not
shown their addresses, which IPv6 addresses are made of, nor the words that somebody put there, nor what they count: how
much goes through a link from one second to the next is its users' affair, and the kernel, too, shows it inside the
namespace alone.
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
    """Let nobody but administrators by. Raises VethError EPERM."""
    if not caller.admin:
        raise VethError(errno.EPERM, op, reason="only root and members of vethd's admin group may")


def owned(caller: Caller, entry: Entry) -> bool:
    """Return whether the pair is the caller's, or the caller may do anything."""
    return caller.admin or entry.owner == caller.owner


def need_owned(caller: Caller, entry: Entry, op: str, ifname: str = "") -> None:
    """Let nobody but administrators and the pair's owner by. Raises VethError EPERM."""
    if not owned(caller, entry):
        raise VethError(errno.EPERM, op, ifname or entry.id, "it is not yours")


async def check_ends(call: Call, op: str, ends: Iterable[LinkSpec]) -> None:
    """Check that the namespace of every end is one of the caller's. Raises VethError EPERM, EINVAL."""
    if call.caller.admin:
        return
    refs = [(end.name or "", end.netns or "") for end in ends]
    for name, ref in refs:
        if not ref.startswith(FD_PREFIX):
            what = f"netns {ref!r}" if ref else "vethd's own namespace"
            reason = f"{what} is for administrators to name: send the file descriptor of a namespace of yours"
            raise VethError(errno.EPERM, op, name, reason)
    for name, ref in refs:
        if not await call.api.manager.workers.chore(_owns_ref, call.caller.uid, ref, call.fds):
            reason = f"the namespace sent as {ref!r} belongs to no user namespace of uid {call.caller.uid}"
            raise VethError(errno.EPERM, op, name, reason)


async def check_change(call: Call, entry: Entry, ends: Iterable[LinkSpec], op: str = "changelink") -> None:
    """Check that the caller may change the pair, and move its ends where ends say. Raises VethError EPERM, EINVAL."""
    need_owned(call.caller, entry, op, call.path.get("name", ""))
    if call.caller.admin:
        return
    await check_ends(call, op, [end for end in ends if end.netns is not None])
    if entry.live is not None:
        taps = [link.tap for link in entry.live.links]
        if not await call.api.manager.workers.chore(_owns_places, call.caller.uid, taps):
            raise VethError(errno.EPERM, op, entry.id, "an end of it is in a namespace that is not yours")


def check_quota(call: Call, spec: PairSpec) -> None:
    """Check that the caller may have one more pair. Raises VethError EDQUOT."""
    entries = call.api.manager.entries.values()
    call.api.policy.check_quota(call.caller, spec, ((entry.owner, entry.spec) for entry in entries))


def pair_shown(caller: Caller, info: PairInfo) -> PairInfo:
    """Return what the caller is shown of a pair."""
    if _shown_whole(caller, info.owner):
        return info
    links = [_without_details(link) for link in info.links]
    return msgspec.structs.replace(info, spec=PairSpec(), reason="", links=links)


def links_shown(api: Api, caller: Caller, links: Sequence[LinkInfo]) -> list[LinkInfo]:
    """Return what the caller is shown of links."""
    return [link if _shown_whole(caller, _owner(api, link.pair)) else _without_details(link) for link in links]


def event_shown(api: Api, caller: Caller, event: PairEvent) -> PairEvent:
    """Return what the caller is shown of an event: details are for whom the pair is, while it is."""
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
    """Ask the kernel whose the namespace sent as ref is, for a worker thread."""
    fd = netns.open_ref(ref, fds)
    try:
        return owns(uid, fd)
    finally:
        os.close(fd)


def _owns_places(uid: int, taps: Iterable[Tap]) -> bool:
    """Ask the kernel whose the namespaces are in which the devices are now, for a worker thread."""
    for tap in taps:
        with tap.lock:
            fd = tap.netns_fd()
        try:
            if not owns(uid, fd):
                return False
        finally:
            os.close(fd)
    return True
