"""changelink on a living pair: all that is said, or nothing.

The kernel applies one RTM_NEWLINK attribute by attribute and stops at the first that it refuses; so before a link is
changed its present values are noted, and on an error put back, newest change first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import msgspec

from vethd.kernel import netns
from vethd.kernel.births import Nursery, Place
from vethd.model.errors import VethError
from vethd.model.spec import CREATE_ONLY, LinkSpec, validate_link
from vethd.model.state import Side
from vethd.pairs.link import Link


def check(link: LinkSpec, name: str) -> None:
    """Check a change before anything is done. Raises VethError EINVAL, ERANGE, EADDRNOTAVAIL, EOPNOTSUPP."""
    validate_link(link, "changelink", name)
    for key in CREATE_ONLY:
        if getattr(link, key) is not None:
            raise VethError(errno.EOPNOTSUPP, "changelink", name, f"{key} is decided when the link is made")
    if link.name is not None and "%" in link.name:
        raise VethError(errno.EINVAL, "changelink", name, "a pattern names a link only when it is made")


def apply(
    nursery: Nursery,
    links: tuple[Link, Link],
    changes: Sequence[tuple[Side, LinkSpec]],
    fds: Sequence[int] | None,
) -> None:
    """Carry out the changes in order, for a worker thread. Raises VethError, and then all is as it was."""
    with ExitStack() as always, ExitStack() as undo:
        targets: dict[Side, int] = {}
        for side, change in changes:
            if change.netns is not None:
                targets[side] = netns.open_ref(change.netns, fds)
                always.callback(os.close, targets[side])
        for side, change in changes:
            link = links[side]
            before = nursery.locate(link.tap)
            home = link.tap.netns_fd()
            always.callback(os.close, home)
            moved = side in targets and netns.inode(targets[side]) != before.netns_inode
            undo.callback(_put_back, nursery, link, _inverse(nursery, link, change, before), home if moved else None)
            told = msgspec.structs.replace(change, netns=None)
            altname = _own_altname(link, before)
            nursery.change(link.tap, told, old_altname=altname, netns_fd=targets[side] if moved else None)
        undo.pop_all()


def _put_back(nursery: Nursery, link: Link, old: LinkSpec, home: int | None) -> None:
    with suppress(VethError):  # gone meanwhile: nothing to put back
        now = _own_altname(link, nursery.locate(link.tap))
        nursery.change(link.tap, old, old_altname=now if now != (old.altname or "") else "", netns_fd=home)


def _own_altname(link: Link, place: Place) -> str:
    """Return the user's altname; ours, that names the peer, does not count."""
    return next((name for name in place.state.altnames if name != link.altname), "")


def _inverse(nursery: Nursery, link: Link, change: LinkSpec, before: Place) -> LinkSpec:
    """Return the present values of what change says."""
    state = before.state
    values = {
        "name": state.name,
        "address": state.address,
        "mtu": state.mtu,
        "txqueuelen": state.txqueuelen,
        "group": state.group,
        "alias": state.alias,
        "altname": _own_altname(link, before),
        "master": nursery.name_of(link.tap, state.master),
        "up": state.up,
        "arp": state.arp,
        "multicast": state.multicast,
        "allmulticast": state.allmulticast,
        "promisc": state.promisc,
        "gso_max_size": state.gso_max_size,
        "gso_max_segs": state.gso_max_segs,
        "gro_max_size": state.gro_max_size,
        "addrgenmode": state.addrgenmode,
    }
    said = {key for key in values if getattr(change, key) is not None}
    if change.netns is not None:  # a link that moves loses these on the way, and one that moves back, too
        said |= {"up", "master", "addrgenmode"}
    return msgspec.convert({key: values[key] for key in said if values[key] is not None}, LinkSpec)
