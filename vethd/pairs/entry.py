"""A requested pair, and the operations on it that do not need the manager."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vethd.kernel import netns
from vethd.kernel.rtnl import Rtnl
from vethd.model.api import AttachmentKey, LinkInfo, PairChange, Source
from vethd.model.errors import VethError
from vethd.model.spec import OWN, LinkSpec, PairSpec
from vethd.model.state import Side
from vethd.pairs.pair import LivePair


@dataclass(eq=False)
class Entry:
    """A requested pair. held: it is declared, a user deleted its device, and it waits for the next reload.

    owner is the uid that the pair belongs to, 0 for administrators and the config. attachment identifies the
    container's interface, if the pair is an attachment (attachments.py).
    """

    id: str
    spec: PairSpec
    source: Source
    fds: Sequence[int] | None = None
    live: LivePair | None = None
    reason: str = ""
    held: bool = False
    owner: int = 0
    attachment: AttachmentKey | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def find_link(entries: Iterable[Entry], name: str, label: str | None = None, owner: int = 0) -> tuple[Entry, Side]:
    """Find a living link by its present name or altname, in the namespace with that label if one is given.

    If owner has such a link, links of other owners are ignored: no other user can hide it with a link of that name.

    Raises VethError ENODEV (none) or ENOTUNIQ (several).
    """
    found = [
        (entry, side, entry.live.links[side].label)
        for entry in entries
        if entry.live is not None
        for side in Side
        if name in (entry.live.links[side].state.name, *entry.live.links[side].state.altnames)
        and label in (None, entry.live.links[side].label)
    ]
    found = [one for one in found if one[0].owner == owner] or found
    if not found:
        where = "" if label is None else f" in namespace {label!r}" if label else " in the daemon's own namespace"
        raise VethError(errno.ENODEV, "getlink", name, f"vethd has no link of that name{where}")
    if len(found) > 1:
        labels = ", ".join(sorted(where or '""' for _, _, where in found))
        reason = f"several namespaces have a link of that name: {labels}; specify one"
        raise VethError(errno.ENOTUNIQ, "getlink", name, reason)
    return found[0][:2]


def still_there(entry: Entry, pair: LivePair) -> bool:
    """Return whether both namespaces of a pair that lost an end still exist: if so, the device was deleted.

    Compares the cookie, too: a namespace that was made again meanwhile may have the inode of the one that died.
    """
    for link, spec in zip(pair.links, (entry.spec.near_end(), entry.spec.far_end()), strict=True):
        try:
            fd = netns.open_ref(spec.netns, entry.fds)
        except VethError:
            return False
        try:
            with netns.inside(fd), Rtnl() as there:
                now = (netns.inode(fd), netns.cookie(there.sock))
        except VethError:
            return False
        finally:
            os.close(fd)
        if now != (link.place.netns_inode, link.place.netns_cookie):
            return False
    return True


def merged(entry: Entry, change: PairChange, links: Sequence[LinkInfo]) -> PairSpec:
    """Return the spec with the change merged in, so that save and reload use the values that were requested last."""

    def over(old: LinkSpec, new: LinkSpec, live: LinkInfo | None) -> dict[str, Any]:
        said = {key: value for key, value in new.attributes().items() if value is not None}
        if live is not None and (said.get("netns") or "").startswith("fd:"):
            said["netns"] = live.netns
        return old.attributes() | said

    near_live, far_live = links or (None, None)
    peer = entry.spec.peer
    if change.peer is not None or (peer is None and change != PairChange()):
        # a peer without a spec of its own keeps the values that it inherited when it was made
        peer = msgspec.convert(over(entry.spec.far_end(), change.peer or LinkSpec(), far_live), LinkSpec)
    near = over(entry.spec, change, near_live)
    own = entry.spec.own() | {name: said for name in OWN if (said := getattr(change, name)) is not None}
    if change.gro == "default":
        own["gro"] = None
    return msgspec.convert(near | own | {"peer": peer}, PairSpec)
