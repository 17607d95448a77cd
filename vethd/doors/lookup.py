"""Find the pair or the link that a request's path and query name."""

from __future__ import annotations

import errno
import os

from vethd.doors import rights
from vethd.doors.routing import Call
from vethd.kernel import netns
from vethd.model.errors import VethError
from vethd.model.state import Side
from vethd.pairs.entry import Entry


def find_pair(call: Call) -> Entry:
    """Find the pair that the path names. Raises VethError ENOENT."""
    entry = call.api.manager.entries.get(call.path["id"])
    if entry is None:
        raise VethError(errno.ENOENT, "getpair", call.path["id"], "no such pair")
    return entry


async def find_link(call: Call) -> tuple[Entry, Side]:
    """Find the link that path and query name; the caller's own links come first. Raises VethError ENODEV, ENOTUNIQ.

    A netns that cannot be opened may still be the label of a namespace. For a caller that is not an administrator only
    passed fds are used: a name or path would be opened with the daemon's rights.
    """
    ref = call.query.get("netns")
    label = ref
    if ref and (call.caller.admin or ref.startswith(rights.FD_PREFIX)):
        try:
            label = await call.api.manager.workers.chore(_label, ref, call)
        except VethError:
            if ref.startswith("fd:"):
                raise
    return call.api.manager.find(call.path["name"], label, call.caller.owner)


def _label(ref: str, call: Call) -> str:
    fd = netns.open_ref(ref, call.fds)
    try:
        return netns.label(netns.inode(fd), call.api.manager.workers.nursery.own_inode)
    finally:
        os.close(fd)
