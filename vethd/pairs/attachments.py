"""A container's attachment to a network: the bridge, the pair, the port, addresses and routes, all or nothing.

Theory of operation. The bridge comes first and stays: other containers may be on it already. The pair is one like any
other, made at run time: it goes with either end, with its namespace, or by detach(). An attachment's identity is a
field of its pair's entry and of that entry's record. Nothing else is kept, so a restart leaves nothing out of step.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from vethd.kernel import netns
from vethd.kernel.bridge import Bridges
from vethd.kernel.l3 import L3, Route
from vethd.kernel.uapi import RT_SCOPE_HOST
from vethd.model.api import AttachmentKey, LinkInfo
from vethd.model.attachment import (
    Attached,
    Attachment,
    AttachmentInfo,
    BridgeSpec,
    IPAddress,
    IPSpec,
    LinkBrief,
    interface,
    network,
    same_family,
    validate_attachment,
)
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec
from vethd.model.state import Side
from vethd.pairs.entry import Entry
from vethd.pairs.manager import Manager

T = TypeVar("T")

_METRICS = (("mtu", "RTAX_MTU"), ("advmss", "RTAX_ADVMSS"))
_ALL_BITS = {4: "32", 6: "128"}
_CARRIER_LOOKS, _CARRIER_LOOK_S = 200, 0.05


async def attach(manager: Manager, asked: Attachment, fds: Sequence[int] | None) -> Attached:
    """Make an attachment, up and carrying, or nothing but perhaps the bridge. Raises VethError."""
    validate_attachment(asked)
    if asked.bridge is not None:
        await manager.workers.chore(partial(_in_netns, asked.host_netns, fds, partial(_set_up_bridge, asked.bridge)))
    if find(manager, asked.key):  # nothing is awaited between this and its being on the list
        reason = f"{asked.ifname} of container {asked.container} is attached to {asked.network} already"
        raise VethError(errno.EEXIST, "attach", asked.ifname, reason)
    entry = await manager.newlink(asked.pair(), fds=fds, attachment=asked.key)
    try:
        await _set_up(manager, entry, asked, fds)
        await _carry(manager, entry)
        near, far = manager.info(entry).links
        peer = msgspec.structs.replace(entry.spec.far_end(), netns=far.netns)
        entry.spec = msgspec.structs.replace(entry.spec, netns=near.netns, peer=peer)
        entry.fds = None  # they are closed after the call
        return await _told(manager, entry, asked, fds)
    except BaseException:
        await manager.dellink(entry)
        raise


async def address(manager: Manager, asked: Attachment, fds: Sequence[int] | None) -> Attached:
    """Return an attachment that is there its addresses and routes. Raises VethError."""
    validate_attachment(asked)
    entry = the_one(manager, asked.key)
    await _set_up(manager, entry, asked, fds)
    return await _told(manager, entry, asked, fds)


async def _set_up(manager: Manager, entry: Entry, asked: Attachment, fds: Sequence[int] | None) -> None:
    host = _links(manager, entry, asked)[Side.NEAR].name

    def both() -> None:
        _in_netns(asked.netns, fds, partial(_set_up_container, asked))
        _in_netns(asked.host_netns, fds, partial(_set_up_host, asked, host))

    await manager.workers.chore(both)


async def detach(manager: Manager, key: AttachmentKey) -> list[Entry]:
    """Delete an attachment; none of that name is no error. Gives what was deleted."""
    found = find(manager, key)
    for entry in found:
        await manager.dellink(entry)
    return found


def find(manager: Manager, key: AttachmentKey) -> list[Entry]:
    """Find the pair of an attachment: one, or none."""
    return [entry for entry in manager.entries.values() if entry.attachment == key]


def attachments(manager: Manager) -> list[AttachmentInfo]:
    """List the attachments."""
    entries = manager.entries.values()
    return [attachment(entry, entry.attachment) for entry in entries if entry.attachment is not None]


def attachment(entry: Entry, key: AttachmentKey) -> AttachmentInfo:
    """Describe an attachment."""
    return AttachmentInfo(network=key.network, container=key.container, ifname=key.ifname, pair=entry.id)


async def check(manager: Manager, asked: Attachment, fds: Sequence[int] | None) -> Attached:
    """See that an attachment is as asked for, and return it. Raises VethError ENOENT, or ESTALE and what differs."""
    validate_attachment(asked)
    entry = the_one(manager, asked.key)
    await manager.workers.chore(partial(_in_netns, asked.netns, fds, partial(_check_container, asked)))
    if entry.live is not None:
        await entry.live.learn_master(Side.NEAR)
    near, far = _links(manager, entry, asked)
    master = asked.bridge.name if asked.bridge is not None else ""
    if near.master != master:
        reason = f"{near.name} is a port of {near.master or 'no bridge'}, not of {master or 'none'}"
        raise VethError(errno.ESTALE, "check", asked.ifname, reason)
    if far.name != asked.ifname:
        raise VethError(errno.ESTALE, "check", asked.ifname, f"the container's end is {far.name!r}")
    return await _told(manager, entry, asked, fds)


def the_one(manager: Manager, key: AttachmentKey) -> Entry:
    """Return an attachment's pair. Raises VethError ENOENT."""
    for entry in find(manager, key):
        return entry
    raise VethError(errno.ENOENT, "attach", key.ifname, f"container {key.container} is not attached")


def _links(manager: Manager, entry: Entry, asked: Attachment) -> list[LinkInfo]:
    if entry.live is None:
        raise VethError(errno.ENODEV, "attach", asked.ifname, entry.reason or "the pair is gone")
    return manager.info(entry).links


async def _told(manager: Manager, entry: Entry, asked: Attachment, fds: Sequence[int] | None) -> Attached:
    """Say what an attachment is now, once the kernel has acted on its carrier. Raises VethError."""
    nursery = manager.workers.nursery
    taps = [link.tap for link in entry.live.links] if entry.live is not None else []

    def look() -> LinkBrief | None:
        for tap in taps:
            nursery.settle(tap)
        return _in_netns(asked.host_netns, fds, partial(_brief, asked.bridge.name)) if asked.bridge else None

    bridge = await manager.workers.chore(look)
    manager.desk.catch_up()
    near, far = _links(manager, entry, asked)
    host, container = (LinkBrief(name=link.name, address=link.address, mtu=link.mtu) for link in (near, far))
    return Attached(pair=entry.id, bridge=bridge, host=host, container=container)


async def _carry(manager: Manager, entry: Entry) -> None:
    """Wait for the carrier of both ends, which are up. Raises VethError."""
    for _ in range(_CARRIER_LOOKS):
        manager.desk.catch_up()
        if entry.live is None or entry.live.carrier:
            break
        await asyncio.sleep(_CARRIER_LOOK_S)  # the news were too many for rtnetlink: all links are being read anew
    await manager.workers.carriers_set()
    if entry.live is None or not entry.live.carrier:
        raise VethError(errno.ENODEV, "attach", reason="an end of the pair went, or down, while it was made")


# --- what worker threads do


def _in_netns(ref: str | None, fds: Sequence[int] | None, act: Callable[[Bridges], T]) -> T:
    """Call act with a socket in the namespace that ref names."""
    fd = netns.open_ref(ref, fds)
    try:
        with netns.inside(fd), Bridges() as here:
            return act(here)
    finally:
        os.close(fd)


def _set_up_bridge(bridge: BridgeSpec, here: Bridges) -> None:
    here.ensure(bridge)


def _set_up_container(asked: Attachment, here: Bridges) -> None:
    """Bring the container's end up, with its addresses and routes."""
    ifindex = here.ifindex(asked.ifname, "attach")
    here.set_link(ifindex, LinkSpec(up=True), op="attach")
    for ip in asked.ips:
        own = interface(ip.address)
        here.add_address(ifindex, own, dad=asked.dad, prefix_route=asked.bridge is not None)
        if asked.bridge is None:  # even the neighbours are behind the host
            gateway = same_family(own, ip.gateway or "")
            here.add_route(ifindex, Route(network(f"{gateway}/{_ALL_BITS[own.version]}"), src=own.ip))
            here.add_route(ifindex, Route(own.network, gateway, own.ip))
    for route in asked.routes:
        dst = network(route.dst)
        gw = same_family(dst, route.gw) if route.gw is not None else _first_gateway(asked.ips, dst.version)
        metrics = tuple((name, value) for key, name in _METRICS if (value := getattr(route, key)) is not None)
        here.add_route(ifindex, Route(dst, gw, None, route.scope, route.priority, route.table, metrics))


def _set_up_host(asked: Attachment, name: str, here: Bridges) -> None:
    """Set up the host's end: a port, or the container's gateway."""
    ifindex = here.ifindex(name, "attach")
    if asked.bridge is not None:
        here.set_port(ifindex, asked.bridge)
        bridge = here.ifindex(asked.bridge.name, "attach")
        for gateway in asked.bridge.gateways:
            here.gateway(bridge, asked.bridge, interface(gateway))
        for ip in asked.ips:
            here.forget_neighbour(bridge, interface(ip.address).ip)
        return
    for ip in asked.ips:
        own = interface(ip.address)
        bits = _ALL_BITS[own.version]
        here.add_address(ifindex, interface(f"{ip.gateway}/{bits}"), dad=False)
        here.add_route(ifindex, Route(network(f"{own.ip}/{bits}"), scope=RT_SCOPE_HOST if own.version == 4 else None))


def _check_container(asked: Attachment, here: L3) -> None:
    """See that the container's end is there and up, with its MAC, addresses and routes. Raises VethError ESTALE."""
    ifindex = here.ifindex(asked.ifname, "check")
    link = here.link(ifindex)
    missing = [] if link.up else ["up"]
    if asked.address is not None and link.address != asked.address.lower():
        missing.append(f"address {asked.address} (it is {link.address})")
    has = set(here.addresses(ifindex))
    missing += [ip.address for ip in asked.ips if interface(ip.address) not in has]
    routed = list(here.routes(ifindex))
    for route in asked.routes:
        dst = str(network(route.dst))
        if not any(dst == there and route.gw in (None, gw) for there, gw in routed):
            missing.append(f"the route to {dst}" + (f" via {route.gw}" if route.gw else ""))
    if missing:
        raise VethError(errno.ESTALE, "check", asked.ifname, f"it has not {', '.join(missing)}")


def _first_gateway(ips: Sequence[IPSpec], version: int) -> IPAddress | None:
    """Return the first gateway of a family; None where there is none, and what is routed is on the link."""
    for ip in ips:
        own = interface(ip.address)
        if own.version == version and ip.gateway is not None:
            return same_family(own, ip.gateway)
    return None


def _brief(name: str, here: L3) -> LinkBrief:
    link = here.link(here.ifindex(name, "attach"))
    return LinkBrief(name=name, address=link.address, mtu=link.mtu)
