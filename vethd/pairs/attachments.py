"""A container's attachment to a network: the bridge, the pair, the port, addresses and routes, all or nothing.

Theory of operation. The bridge is made first and stays, because other containers may use it. The pair is like any pair
that is made at run time: it is deleted with either end, with its namespace, or by detach(). An attachment's identity is
a field of its pair's entry and of that entry's record. There is no other state, so a restart cannot lose any.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence

import msgspec

from vethd.model.api import AttachmentKey, LinkInfo
from vethd.model.attachment import (
    Attached,
    Attachment,
    AttachmentInfo,
    LinkBrief,
    validate_attachment,
)
from vethd.model.errors import VethError
from vethd.model.state import Side
from vethd.pairs import attaching
from vethd.pairs.entry import Entry
from vethd.pairs.manager import Manager

_CARRIER_LOOKS, _CARRIER_LOOK_S = 200, 0.05
_DAD_LOOKS, _DAD_LOOK_S = 100, 0.05  # the kernel takes one to two seconds


async def attach(manager: Manager, asked: Attachment, fds: Sequence[int] | None) -> Attached:
    """Make an attachment. If that fails, nothing remains except perhaps the bridge.

    The attachment is up and has carrier afterwards, unless asked.up is False. Raises VethError.
    """
    validate_attachment(asked)
    refused: list[str] = []
    if asked.bridge is not None:
        refused += await manager.workers.chore(attaching.set_up_bridge, asked, asked.bridge, fds)
    if find(manager, asked.key):  # there is no await between this check and the entry's addition
        reason = f"{asked.ifname} of container {asked.container} is already attached to {asked.network}"
        raise VethError(errno.EEXIST, "attach", asked.ifname, reason)
    entry = await manager.newlink(asked.pair(), fds=fds, attachment=asked.key)
    try:
        refused += await _set_up(manager, entry, asked, fds)
        near, far = manager.info(entry).links
        peer = msgspec.structs.replace(entry.spec.far_end(), netns=far.netns)
        entry.spec = msgspec.structs.replace(entry.spec, netns=near.netns, peer=peer)
        entry.fds = None  # the fds are closed after the call
        return await _told(manager, entry, asked, fds, refused)
    except BaseException:
        await manager.dellink(entry)
        raise


async def address(manager: Manager, asked: Attachment, fds: Sequence[int] | None) -> Attached:
    """Bring an existing attachment up and give it its addresses and routes. Raises VethError."""
    validate_attachment(asked)
    entry = the_one(manager, asked.key)
    refused = await _set_up(manager, entry, asked, fds)
    return await _told(manager, entry, asked, fds, refused)


async def _set_up(manager: Manager, entry: Entry, asked: Attachment, fds: Sequence[int] | None) -> list[str]:
    """Bring the ends up and wait until the addresses can be used; return the refused sysctls."""
    host = _links(manager, entry, asked)[Side.NEAR].name
    refused = await manager.workers.chore(attaching.set_up, asked, host, fds)
    if asked.up:
        await _carry(manager, entry)
        if asked.dad:
            await _settle(manager, asked, fds)
        await manager.workers.chore(attaching.complete, asked, fds)
    return refused


async def detach(manager: Manager, key: AttachmentKey) -> list[Entry]:
    """Delete an attachment; return the deleted entries. A missing attachment is no error."""
    found = find(manager, key)
    for entry in found:
        await manager.dellink(entry)
    return found


def find(manager: Manager, key: AttachmentKey) -> list[Entry]:
    """Return the pair of an attachment: a list of one entry, or of none."""
    return [entry for entry in manager.entries.values() if entry.attachment == key]


def attachments(manager: Manager) -> list[AttachmentInfo]:
    """List the attachments."""
    entries = manager.entries.values()
    return [attachment(entry, entry.attachment) for entry in entries if entry.attachment is not None]


def attachment(entry: Entry, key: AttachmentKey) -> AttachmentInfo:
    """Describe an attachment."""
    return AttachmentInfo(network=key.network, container=key.container, ifname=key.ifname, pair=entry.id)


async def check(manager: Manager, asked: Attachment, fds: Sequence[int] | None) -> Attached:
    """Check that an attachment is as asked, and return it. Raises VethError ENOENT, or ESTALE with the difference."""
    validate_attachment(asked)
    entry = the_one(manager, asked.key)
    await manager.workers.chore(attaching.check, asked, fds)
    if entry.live is not None:
        await entry.live.learn_master(Side.NEAR)
    near, far = _links(manager, entry, asked)
    master = asked.bridge.name if asked.bridge is not None else ""
    if near.master != master:
        reason = f"{near.name} is a port of {near.master or 'no bridge'}, not of {master or 'none'}"
        raise VethError(errno.ESTALE, "check", asked.ifname, reason)
    if far.name != asked.ifname:
        raise VethError(errno.ESTALE, "check", asked.ifname, f"the container's end is {far.name!r}")
    return await _told(manager, entry, asked, fds, [])


def the_one(manager: Manager, key: AttachmentKey) -> Entry:
    """Return an attachment's pair. Raises VethError ENOENT."""
    for entry in find(manager, key):
        return entry
    raise VethError(errno.ENOENT, "attach", key.ifname, f"container {key.container} is not attached")


def _links(manager: Manager, entry: Entry, asked: Attachment) -> list[LinkInfo]:
    if entry.live is None:
        raise VethError(errno.ENODEV, "attach", asked.ifname, entry.reason or "the pair is gone")
    return manager.info(entry).links


async def _told(
    manager: Manager, entry: Entry, asked: Attachment, fds: Sequence[int] | None, refused: list[str]
) -> Attached:
    """Return an attachment's present state. Raises VethError."""
    names = (asked.bridge.name, asked.bridge.vlan_device) if asked.bridge is not None else (None, None)
    bridge, vlan = [await manager.workers.chore(attaching.brief, asked, name, fds) if name else None for name in names]
    manager.desk.catch_up()
    near, far = _links(manager, entry, asked)
    host, container = (LinkBrief(name=link.name, address=link.address, mtu=link.mtu) for link in (near, far))
    return Attached(pair=entry.id, bridge=bridge, host=host, container=container, vlan=vlan, refused=refused)


async def _carry(manager: Manager, entry: Entry) -> None:
    """Wait until both ends, which are up, have carrier and the kernel has acted on it. Raises VethError."""
    for _ in range(_CARRIER_LOOKS):
        manager.desk.catch_up()
        if entry.live is None or entry.live.carrier:
            break
        await asyncio.sleep(_CARRIER_LOOK_S)  # rtnetlink lost messages: all links are being read again
    await manager.workers.carriers_set()
    if entry.live is None or not entry.live.carrier:
        raise VethError(errno.ENODEV, "attach", reason="an end of the pair was deleted or set down meanwhile")


async def _settle(manager: Manager, asked: Attachment, fds: Sequence[int] | None) -> None:
    """Wait until duplicate address detection is over. Raises VethError EADDRINUSE, ETIMEDOUT."""
    for _ in range(_DAD_LOOKS):
        if await manager.workers.chore(attaching.settled, asked, fds):
            return
        await asyncio.sleep(_DAD_LOOK_S)
    raise VethError(errno.ETIMEDOUT, "attach", asked.ifname, "duplicate address detection did not finish in time")
