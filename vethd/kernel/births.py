"""Makes a TAP in the requested namespace, completely or not at all.

Theory of operation. A device is made in the namespace in which /dev/net/tun is *opened*, and the open fd pins that
namespace. So a device for another namespace is made in a staging namespace (anonymous, private, empty except for lo),
gets all attributes that survive a move, and is moved. It is made under its final name: the kernel then refuses the
whole move if that name is taken. Only a device with a pattern ("veth%d") is made under a temporary name and named by
the move. The MAC is set before the move: udev in the target namespace then finds an address that was set, and does not
change it.

A move costs an rcu_barrier, about 14 ms, for every program. This process pins its own namespace anyway, so a device for
it is made in place, without a move.

Everything here blocks: for worker threads only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from vethd.kernel import netns
from vethd.kernel.announce import Announcer
from vethd.kernel.linkstate import LinkState
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.steering import Steering
from vethd.kernel.tun import Tap
from vethd.kernel.uapi import NSID_NOT_ASSIGNED
from vethd.kernel.watcher import OWN_NSID, LinkKey
from vethd.model import needs
from vethd.model.errors import VethError
from vethd.model.spec import LATENCY_QUEUES, LinkSpec

_AFTER_MOVE = ("master", "arp", "multicast", "allmulticast", "promisc", "addrgenmode")
"""Attributes that a move resets, or that are meaningful only in the link's final namespace."""
_BEFORE_MOVE = (
    "address",
    "mtu",
    "txqueuelen",
    "group",
    "alias",
    "altname",
    "gso_max_size",
    "gso_max_segs",
    "gro_max_size",
)
_TEMPORARY = "vethd%d"
_MOVED = "the device was moved or renamed meanwhile"
_NO_INDEX = f"this kernel cannot set the ifindex of a TAP (Linux {needs.INDEX.since} can)"
_RENAMES = 3  # of a device, one after the other, between a look at its name and one at its state
_FEW = 32  # devices of one namespace: reading these one by one costs as much as a dump of a hundred links


class Place(NamedTuple):
    """The place of a link: its key for the watcher, its namespace's inode, and its state from rtnetlink.

    netns_cookie is a number that no other namespace ever has (kernel.netns.cookie()); inodes are reused.
    """

    key: LinkKey
    netns_inode: int
    state: LinkState
    netns_cookie: int = 0


class Nursery:
    """The staging namespace, and all operations on a link that need to enter its namespace."""

    def __init__(self) -> None:
        """Make the staging namespace. Raises VethError EPERM without CAP_SYS_ADMIN."""
        self._staging_fd = netns.new_anonymous()
        self._own_fd = netns.open_own()
        self.own_inode = netns.inode(self._own_fd)

    def close(self) -> None:
        """Release the staging namespace."""
        os.close(self._staging_fd)
        os.close(self._own_fd)

    def birth(self, link: LinkSpec, target_fd: int, steering: Steering | None = None) -> tuple[Tap, Place]:
        """Make a TAP with link's attributes in the namespace of target_fd, down and without carrier.

        target_fd stays the caller's. steering gives the device a latency queue. `up` is not applied here, because the
        pair is not connected yet. On failure every step is undone. Raises VethError with the errno that `ip link add`
        would report.
        """
        in_place = netns.inode(target_fd) == self.own_inode and link.index is None
        pattern = link.name is None or "%" in link.name
        final = link.name or "veth%d"
        try:
            with ExitStack() as undo, netns.inside(self._own_fd if in_place else self._staging_fd), Rtnl() as here:
                queues = LATENCY_QUEUES if steering else link.queues or 1
                tap = Tap.birth(_TEMPORARY if pattern and not in_place else final, queues)
                undo.callback(tap.close)
                if steering:
                    steering.attach(tap.fds[0])
                ifindex = here.ifindex(tap.ifname, "newlink")
                here.set_link(ifindex, link, skip=("name", "up", *_AFTER_MOVE), op="newlink")
                if not in_place:
                    name = final if pattern else None
                    with _taken(final, target_fd):
                        here.move(ifindex, target_fd, name=name, new_ifindex=link.index, op="newlink")
                with self._at(tap, listen=True) as there:
                    _check_index(link, there.ifindex)
                    _set_noqueue(there)
                    there.rtnl.set_link(there.ifindex, link, skip=("name", "up", *_BEFORE_MOVE), op="newlink")
                    place = there.place()
                undo.pop_all()
                return tap, place
        except VethError as error:
            raise VethError(error.errno, "newlink", link.name or "", error.reason) from error

    def locate(self, tap: Tap) -> Place:
        """Find the place of a device, and ensure that the watcher receives its events. Raises VethError ENODEV."""
        with self._at(tap, listen=True) as there:
            return there.place()

    def change(self, tap: Tap, link: LinkSpec, *, old_altname: str = "", netns_fd: int | None = None) -> None:
        """Give a living link the attributes that link sets; netns_fd, the caller's, moves it there first.

        altname replaces old_altname; "" removes it. Raises VethError; steps before the error are not undone.
        """
        if netns_fd is not None:
            with self._at(tap) as here, _taken(link.name or tap.ifname, netns_fd):
                # with the name in the request, the move also works if the present name is taken in the target
                here.rtnl.move(here.ifindex, netns_fd, name=link.name)
        with self._at(tap) as here:
            if netns_fd is not None:
                _set_noqueue(here)
            if link.altname is not None and old_altname:
                here.rtnl.altname(here.ifindex, remove=old_altname)
            here.rtnl.set_link(here.ifindex, link)

    def delete(self, tap: Tap) -> None:
        """Delete the device, even if other processes hold its fds. Raises VethError ENODEV if it is gone.

        If the deletion fails, the device is no longer persistent: the last close deletes it.
        """
        try:
            with self._at(tap) as here:
                here.rtnl.dellink(here.ifindex)
        except VethError:
            tap.set_persist(on=False)
            raise

    def noqueue(self, tap: Tap) -> bool:
        """Set a link's qdisc to noqueue again, as on veth, unless somebody chose another one. Raises VethError.

        Return False if this kernel cannot.
        """
        with self._at(tap) as here:
            return here.rtnl.chosen_qdisc(here.ifindex) or _set_noqueue(here)

    def settle(self, tap: Tap, *, announce: bool = False) -> None:
        """Have the kernel process a carrier change now, which it does when the link is read. ENODEV is no error.

        announce: also have it announce the link's addresses, if its namespace requests that (announce.py).
        """
        with suppress(VethError), self._at(tap) as here:
            state = here.rtnl.link(here.ifindex)
            if announce:
                with Announcer() as there:
                    there.announce(state)

    def strip(self, tap: Tap, *, alias: str, altname: str) -> None:
        """Remove this alias and this altname from a link if it has exactly these. Raises VethError."""
        with self._at(tap) as here:
            state = here.rtnl.link(here.ifindex)
            if altname and altname in state.altnames:
                here.rtnl.altname(here.ifindex, remove=altname)
            if alias and alias == state.alias:
                here.rtnl.set_link(here.ifindex, LinkSpec(alias=""))

    def name_of(self, tap: Tap, ifindex: int) -> str:
        """Return the name of another link in tap's namespace (its master); "" for ifindex 0. Raises VethError."""
        with self._at(tap) as here:
            return here.rtnl.link(ifindex).name if ifindex else ""

    def survey(self, taps: Iterable[Tap]) -> dict[LinkKey, LinkState]:
        """Read the state of the devices, and possibly of other links there. Devices that are gone are left out.

        A few devices are read one by one: another user may have filled their namespace with links.
        """
        found: dict[LinkKey, LinkState] = {}
        groups: dict[int, list[Tap]] = {}
        for tap in taps:
            with suppress(VethError):
                groups.setdefault(tap.netns_inode(), []).append(tap)
        for group in groups.values():
            for first in group:  # a device that has just gone does not lead to the namespace
                with suppress(VethError), self._at(first, listen=True) as here:
                    links = here.rtnl.links() if len(group) > _FEW else _each(here.rtnl, group)
                    found |= {(here.nsid, state.ifindex): state for state in links}
                    break
        return found

    @contextmanager
    def _at(self, tap: Tap, *, listen: bool = False) -> Iterator[_Here]:
        """Enter the device's namespace; listen ensures that the watcher receives events from there.

        A device can be moved or renamed at any moment, so repeat the look-up until its result is consistent. If the
        device moves while the caller works in the namespace, the kernel returns ENODEV, which becomes EAGAIN here.
        """
        with tap.lock:
            for _ in range(20):
                fd = tap.netns_fd()
                try:
                    nsid = self._nsid(fd) if listen else NSID_NOT_ASSIGNED
                    with netns.inside(fd), Rtnl() as rtnl:
                        try:
                            ifindex = rtnl.ifindex(tap.ifname)
                        except VethError as error:
                            if error.errno != errno.ENODEV or not tap.alive:
                                raise
                            continue
                        here = _Here(rtnl, ifindex, nsid, netns.inode(fd))
                        try:
                            yield here
                        except VethError as error:
                            if error.errno == errno.ENODEV and tap.netns_inode() != here.netns_inode:
                                raise VethError(errno.EAGAIN, error.op, error.ifname, _MOVED) from error
                            raise
                        return
                finally:
                    os.close(fd)
            raise VethError(errno.EAGAIN, "getlink", reason=_MOVED)

    def _nsid(self, netns_fd: int) -> int:
        if netns.inode(netns_fd) == self.own_inode:
            return OWN_NSID
        with netns.inside(self._own_fd), Rtnl() as own:
            return own.nsid(netns_fd)


def _check_index(link: LinkSpec, ifindex: int) -> None:
    """Raise VethError EOPNOTSUPP if the kernel ignored the requested ifindex."""
    if link.index not in (None, ifindex):
        raise VethError(errno.EOPNOTSUPP, "newlink", reason=_NO_INDEX)


@contextmanager
def _taken(name: str, netns_fd: int) -> Iterator[None]:
    """Report EEXIST for a move to a namespace where the name is taken: some kernels (5.4) report EINVAL."""
    try:
        yield
    except VethError as error:
        if error.errno == errno.EINVAL and _exists(name, netns_fd):
            raise VethError(errno.EEXIST, error.op, error.ifname) from error
        raise


def _exists(name: str, netns_fd: int) -> bool:
    try:
        with netns.inside(netns_fd), Rtnl() as there:
            there.ifindex(name)
    except VethError:
        return False
    return True


def _set_noqueue(here: _Here) -> bool:
    """Return False without CONFIG_NET_SCHED: rtnetlink has no qdiscs then, and a link keeps pfifo_fast."""
    try:
        here.rtnl.noqueue(here.ifindex)
    except VethError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    return True


class _Here(NamedTuple):
    """A device's namespace, entered: a socket in it, and the device's ifindex. nsid is valid only with listen."""

    rtnl: Rtnl
    ifindex: int
    nsid: int
    netns_inode: int

    def place(self) -> Place:
        """Read the link and return its place."""
        key = (self.nsid, self.ifindex)
        return Place(key, self.netns_inode, self.rtnl.link(self.ifindex), netns.cookie(self.rtnl.sock))


def _each(rtnl: Rtnl, taps: Iterable[Tap]) -> Iterator[LinkState]:
    """Yield the states of the devices that are in the socket's namespace. A device may be renamed at any moment."""
    for tap in taps:
        for _ in range(_RENAMES):
            try:
                yield rtnl.link(rtnl.ifindex(tap.ifname))
                break
            except VethError as error:
                if error.errno != errno.ENODEV or not tap.alive:
                    break
