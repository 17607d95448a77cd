"""How a TAP comes into the world: whole, where it was asked for, or not at all.

Theory of operation. The namespace in which /dev/net/tun is *opened* is where the device is born, and the open fd
pins it for ever. So a device for another namespace is born in a staging one (anonymous, private, empty but for
lo), gets all that survives a move, and is moved. It is born under its final name: then the kernel refuses the move
whole where that name is taken. Only a pattern ("veth%d") is born under a temporary one and named by the move.
MAC before the move: udev over there then finds an address that was set, and leaves it alone.

A move costs an rcu_barrier, about 14 ms, whoever asks for it. Our own namespace is pinned by our living in it, so a
device for it is born in place and pays nothing.

Everything here blocks: for worker threads only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from vethd.kernel import netns
from vethd.kernel.linkstate import LinkState
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.tun import Tap
from vethd.kernel.uapi import NSID_NOT_ASSIGNED
from vethd.kernel.watcher import OWN_NSID, LinkKey
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec

_AFTER_MOVE = ("master", "arp", "multicast", "allmulticast", "promisc", "addrgenmode")
"""What a move resets, or what means something only in the namespace where the link is."""
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
_MOVED = "the device would not stay in one place"
_FEW = 32  # devices of one namespace: as many questions cost what a dump of a hundred links does


class Place(NamedTuple):
    """A link's whereabouts: its key for the watcher, its namespace's inode, and what rtnetlink says of it.

    netns_cookie is a number that no other namespace has ever had (kernel.netns.cookie()): inodes are used again.
    """

    key: LinkKey
    netns_inode: int
    state: LinkState
    netns_cookie: int = 0


class Nursery:
    """The staging namespace, and all that is done to a link by entering its namespace."""

    def __init__(self) -> None:
        """Make the staging namespace. Raises VethError EPERM without CAP_SYS_ADMIN."""
        self._staging_fd = netns.new_anonymous()
        self._own_fd = netns.open_own()
        self.own_inode = netns.inode(self._own_fd)

    def close(self) -> None:
        """Let the staging namespace die."""
        os.close(self._staging_fd)
        os.close(self._own_fd)

    def birth(self, link: LinkSpec, target_fd: int) -> tuple[Tap, Place]:
        """Make a TAP with link's attributes in the namespace of target_fd, down and without carrier.

        target_fd stays the caller's. `up` is not done here: the pair is not tied yet. Undoes all on failure.
        Raises VethError with the errno that `ip link add` would show.
        """
        in_place = netns.inode(target_fd) == self.own_inode and link.index is None
        pattern = link.name is None or "%" in link.name
        final = link.name or "veth%d"
        try:
            with ExitStack() as undo, netns.inside(self._own_fd if in_place else self._staging_fd), Rtnl() as here:
                tap = Tap.birth(_TEMPORARY if pattern and not in_place else final, link.queues or 1)
                undo.callback(tap.close)
                ifindex = here.ifindex(tap.ifname, "newlink")
                here.set_link(ifindex, link, skip=("name", "up", *_AFTER_MOVE), op="newlink")
                if not in_place:
                    here.move(ifindex, target_fd, name=final if pattern else None, new_ifindex=link.index, op="newlink")
                with self._at(tap, listen=True) as there:
                    there.rtnl.noqueue(there.ifindex)
                    there.rtnl.set_link(there.ifindex, link, skip=("name", "up", *_BEFORE_MOVE), op="newlink")
                    place = there.place()
                undo.pop_all()
                return tap, place
        except VethError as error:
            raise VethError(error.errno, "newlink", link.name or "", error.reason) from error

    def locate(self, tap: Tap) -> Place:
        """Find where a device is now, and see to it that we hear of it there. Raises VethError ENODEV."""
        with self._at(tap, listen=True) as there:
            return there.place()

    def change(self, tap: Tap, link: LinkSpec, *, old_altname: str = "", netns_fd: int | None = None) -> None:
        """Give a living link the attributes that link says; netns_fd, the caller's, moves it there first.

        altname replaces old_altname, "" removes it. Raises VethError; what was done before the error stays done.
        """
        if netns_fd is not None:
            with self._at(tap) as here:
                # told the name too, the kernel takes it where the present one is taken over there
                here.rtnl.move(here.ifindex, netns_fd, name=link.name)
        with self._at(tap) as here:
            if netns_fd is not None:
                here.rtnl.noqueue(here.ifindex)
            if link.altname is not None and old_altname:
                here.rtnl.altname(here.ifindex, remove=old_altname)
            here.rtnl.set_link(here.ifindex, link)

    def delete(self, tap: Tap) -> None:
        """Delete the device, whoever else holds an fd of it. Raises VethError ENODEV where it is gone.

        Where it fails otherwise the device is not persistent any more: the last close deletes it.
        """
        try:
            with self._at(tap) as here:
                here.rtnl.dellink(here.ifindex)
        except VethError:
            tap.set_persist(on=False)
            raise

    def noqueue(self, tap: Tap) -> None:
        """Give a link veth's qdisc again, unless somebody chose another. Raises VethError."""
        with self._at(tap) as here:
            if not here.rtnl.chosen_qdisc(here.ifindex):
                here.rtnl.noqueue(here.ifindex)

    def settle(self, tap: Tap) -> None:
        """Have the kernel act now on a change of carrier: it does when the link is asked for. Gone is no error."""
        with suppress(VethError), self._at(tap) as here:
            here.rtnl.link(here.ifindex)

    def publish(self, tap: Tap, alias: tuple[str, str] | None, altname: tuple[str, str]) -> None:
        """Write alias and altname, each given as (new, what we wrote there before); None leaves the alias alone.

        An alias that is neither empty nor ours is the user's, and stays; so does a name that is somebody's. What is so
        already is not done again: after a failure call it again. Raises VethError.
        """
        with self._at(tap) as here:
            state = here.rtnl.link(here.ifindex)
            new, ours = altname
            if ours != new and ours in state.altnames:
                here.rtnl.altname(here.ifindex, remove=ours)
            if new not in state.altnames:
                try:
                    here.rtnl.altname(here.ifindex, add=new)
                except VethError as error:
                    if error.errno != errno.EEXIST:
                        raise
            if alias and state.alias in ("", alias[1]) and state.alias != alias[0]:  # or a user's of this instant goes
                here.rtnl.set_link(here.ifindex, LinkSpec(alias=alias[0]))

    def name_of(self, tap: Tap, ifindex: int) -> str:
        """Return the name of another link in tap's namespace, as of its master; "" for ifindex 0. Raises VethError."""
        with self._at(tap) as here:
            return here.rtnl.link(ifindex).name if ifindex else ""

    def survey(self, taps: Iterable[Tap]) -> dict[LinkKey, LinkState]:
        """Read the state of the devices, and perhaps of others beside them; those that are gone are left out.

        A few are asked for one by one: somebody else may have filled their namespace with links of his.
        """
        found: dict[LinkKey, LinkState] = {}
        groups: dict[int, list[Tap]] = {}
        for tap in taps:
            with suppress(VethError):
                groups.setdefault(tap.netns_inode(), []).append(tap)
        for group in groups.values():
            for first in group:  # one that is gone just now shows us nowhere
                with suppress(VethError), self._at(first, listen=True) as here:
                    links = here.rtnl.links() if len(group) > _FEW else _each(here.rtnl, group)
                    found |= {(here.nsid, state.ifindex): state for state in links}
                    break
        return found

    @contextmanager
    def _at(self, tap: Tap, *, listen: bool = False) -> Iterator[_Here]:
        """Enter the namespace where the device is; listen sees to it that we hear of it there.

        A device may move or be renamed under our feet at any moment, so look again until what we found is so. Where it
        moves while the caller is at work there, what the kernel then says of it is ENODEV: EAGAIN for our callers.
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


class _Here(NamedTuple):
    """A device's namespace, entered: a socket there, and the device's ifindex. nsid only where it was asked for."""

    rtnl: Rtnl
    ifindex: int
    nsid: int
    netns_inode: int

    def place(self) -> Place:
        """Read the link."""
        key = (self.nsid, self.ifindex)
        return Place(key, self.netns_inode, self.rtnl.link(self.ifindex), netns.cookie(self.rtnl.sock))


def _each(rtnl: Rtnl, taps: Iterable[Tap]) -> Iterator[LinkState]:
    """Read the devices' states in the namespace of the socket; those that are not there are left out."""
    for tap in taps:
        with suppress(VethError):
            yield rtnl.link(rtnl.ifindex(tap.ifname))
