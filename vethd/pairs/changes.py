"""changelink on a living pair: apply every change, or none.

The kernel applies one RTM_NEWLINK attribute by attribute and stops at the first that it refuses. So this module notes a
link's present values before it changes the link, and on an error restores them, newest change first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec
import structlog

from vethd.kernel import netns
from vethd.kernel.births import Nursery, Place
from vethd.model.api import PairChange
from vethd.model.errors import VethError
from vethd.model.spec import CREATE_ONLY, OWN_CREATE_ONLY, LinkSpec, validate_link
from vethd.model.state import Side
from vethd.pairs.link import Link

log = structlog.get_logger()


def check(link: LinkSpec, name: str) -> None:
    """Validate a change before it is applied. Raises VethError EINVAL, ERANGE, EADDRNOTAVAIL, EOPNOTSUPP."""
    validate_link(link, "changelink", name)
    _refuse(CREATE_ONLY, link, name)
    if link.name is not None and "%" in link.name:
        raise VethError(errno.EINVAL, "changelink", name, "a name pattern is allowed only when the link is made")


def check_own(change: PairChange, name: str) -> None:
    """Check that a change sets no attribute of the pair that is fixed at creation. Raises VethError EOPNOTSUPP."""
    _refuse(OWN_CREATE_ONLY, change, name)


def _refuse(keys: Sequence[str], change: LinkSpec | PairChange, name: str) -> None:
    for key in keys:
        if getattr(change, key) is not None:
            raise VethError(errno.EOPNOTSUPP, "changelink", name, f"{key} can be set only when the link is made")


def apply(
    nursery: Nursery,
    links: tuple[Link, Link],
    changes: Sequence[tuple[Side, LinkSpec]],
    fds: Sequence[int] | None,
) -> None:
    """Apply the changes in order; for a worker thread.

    Raises VethError, and then no change remains; one that cannot be undone is logged.
    """
    with ExitStack() as always, ExitStack() as undo:
        targets: dict[Side, int] = {}
        for side, change in changes:
            if change.netns is not None:
                targets[side] = netns.open_ref(change.netns, fds)
                always.callback(os.close, targets[side])
        for side, asked in changes:
            link = links[side]
            change = _of_device(link, asked)
            before = nursery.locate(link.tap)
            home = link.tap.netns_fd()
            always.callback(os.close, home)
            moved = side in targets and netns.inode(targets[side]) != before.netns_inode
            undo.callback(_put_back, nursery, link, _inverse(nursery, link, change, before), home if moved else None)
            told = msgspec.structs.replace(change, netns=None)
            altname = _altname(before)
            nursery.change(link.tap, told, old_altname=altname, netns_fd=targets[side] if moved else None)
        undo.pop_all()


def _of_device(link: Link, change: LinkSpec) -> LinkSpec:
    """Return the change as the device takes it: one number for both txqueuelen and ring."""
    asked = change.txqueuelen is not None or change.ring is not None
    return msgspec.structs.replace(change, txqueuelen=link.queue_len if asked else None, ring=None)


def _put_back(nursery: Nursery, link: Link, old: LinkSpec, home: int | None) -> None:
    try:
        now = _altname(nursery.locate(link.tap))
        nursery.change(link.tap, old, old_altname=now if now != (old.altname or "") else "", netns_fd=home)
    except VethError as error:
        if error.errno != errno.ENODEV:  # if the device is gone meanwhile, there is nothing to restore
            log.warning("change not undone", name=link.state.name, reason=str(error))


def _altname(place: Place) -> str:
    """Return the link's first altname, "" if it has none."""
    return next(iter(place.state.altnames), "")


def _inverse(nursery: Nursery, link: Link, change: LinkSpec, before: Place) -> LinkSpec:
    """Return the present values of the attributes that change sets."""
    state = before.state
    values = {
        "name": state.name,
        "address": state.address,
        "mtu": state.mtu,
        "txqueuelen": state.txqueuelen,
        "group": state.group,
        "alias": state.alias,
        "altname": _altname(before),
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
    if change.netns is not None:  # a move loses these, and so does the move back
        said |= {"up", "master", "addrgenmode"}
    return msgspec.convert({key: values[key] for key in said if values[key] is not None}, LinkSpec)
