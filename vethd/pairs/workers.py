"""Run what blocks off the loop: births one at a time, chores one at a time, carriers in order, burials side by side.

The RTNL lock makes any of these calls wait for any other in the system, so none may stand on the loop's thread. Births
have a thread of their own: a slow one (two moves, 14 ms each) must not delay the noqueue or the alias of a pair that is
already forwarding. Closing a TAP deletes it and waits for RCU; those waits overlap well.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import TypeVar

import msgspec
import structlog

from vethd.kernel import netns
from vethd.kernel.births import Nursery, Place
from vethd.kernel.tun import Tap
from vethd.kernel.tunfilter import TunFilter
from vethd.model.errors import VethError
from vethd.model.spec import MTU, LinkSpec, PairSpec
from vethd.model.verdict import forward_limit
from vethd.pairs.link import Link
from vethd.pairs.publish import publish

T = TypeVar("T")

log = structlog.get_logger()

_BURIALS = 8
_PAUSES_S = (*(0.01 * 2**n for n in range(10)), *(10.24 for _ in range(5)))  # a minute in all
_FOR_GOOD = (errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP)


class Workers:
    """The threads, and the nursery that they work in."""

    def __init__(self) -> None:
        """Make the staging namespace. Raises VethError EPERM without CAP_SYS_ADMIN."""
        self.nursery = Nursery()
        self._births = _pool(1, "vethd-birth")
        self._chores = _pool(1, "vethd-chore")
        self._carriers = _pool(1, "vethd-carrier")
        self._burials = _pool(_BURIALS, "vethd-burial")

    async def make(self, spec: PairSpec, fds: Sequence[int] | None) -> tuple[Link, Link]:
        """Make both devices of a valid spec, the peer first, down and without carrier; (near, far).

        fds is what "fd:N" refers to. Raises VethError, and then the machine is as it was.
        """
        birth = self._births.submit(self._make, spec, fds)
        try:
            return await asyncio.wrap_future(birth)
        except asyncio.CancelledError:
            birth.add_done_callback(_unwanted)
            raise
        finally:
            del birth  # it holds its failure, whose traceback holds this frame

    async def chore(self, function: Callable[..., T], *args: object) -> T:
        """Call a blocking function of the kernel room in its turn."""
        return await self._run(self._chores, function, *args)

    async def insist(self, function: Callable[..., T], *args: object) -> T | None:
        """Call function as a chore until it succeeds; None where it never will (the device is gone), or not in a while.

        What fails otherwise is out of fds or memory, or the device would not stay in one place: that passes. So
        function is one that may be called again after a failure.
        """
        for pause_s in _PAUSES_S:
            try:
                return await self.chore(function, *args)
            except VethError as error:
                if error.errno in _FOR_GOOD:
                    return None
                log.warning("a chore failed, and is tried again", reason=str(error), after_s=pause_s)
                await asyncio.sleep(pause_s)
        return None

    async def locate(self, tap: Tap) -> tuple[Place, str] | None:
        """Find where a device is and what its namespace is called; None as insist()."""
        return await self.insist(self._locate, tap)

    def set_carriers(self, links: Sequence[Link], *, on: bool) -> None:
        """Turn carriers on or off, soon and in order: every ioctl of a TAP takes the RTNL lock.

        The kernel's link watch may take a second to tell the rest of it: senders send on when the carrier went, IPv6
        does not begin when it came, and listeners hear of neither. Asked for the link, it acts at once; but asking
        takes a hundred times as long as setting, so all are set first.
        """
        for link in links:
            link.epoch += 1
        self._carriers.submit(self._set_carriers, [link.tap for link in links], on=on)

    async def carriers_set(self) -> None:
        """Wait until every carrier is as it was asked for until now."""
        await self._run(self._carriers, lambda: None)

    def _set_carriers(self, taps: Sequence[Tap], *, on: bool) -> None:
        for tap in taps:
            try:
                tap.set_carrier(on=on)
            except VethError:
                log.exception("carrier not set", on=on)
        for tap in taps:
            self.nursery.settle(tap)

    async def bury(self, links: Iterable[Link]) -> None:
        """Delete the devices, all at once, whoever else holds them. Links that are gone already are no error.

        What is begun is finished, even where the caller is cancelled: nobody else knows of these devices any more.
        """
        await asyncio.shield(asyncio.gather(*(self._run(self._burials, self._bury, link) for link in links)))

    async def let_go(self, links: Iterable[Link]) -> None:
        """Close our fds of the devices: they are gone, unless somebody else holds them, too."""
        await asyncio.gather(*(self._run(self._burials, link.close) for link in links))

    def close(self) -> None:
        """Wait for what is under way, then let threads and staging namespace go."""
        for pool in (self._births, self._chores, self._carriers, self._burials):
            pool.shutdown()
        self.nursery.close()

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

    def _make(self, spec: PairSpec, fds: Sequence[int] | None) -> tuple[Link, Link]:
        near, far = spec.near_end(), spec.far_end()
        with ExitStack() as always, ExitStack() as undo:
            near_fd = _open(near, fds)
            always.callback(os.close, near_fd)
            far_fd = _open(far, fds)
            always.callback(os.close, far_fd)
            far_link = self._birth(far, far_fd)
            undo.callback(far_link.close)
            try:
                near_link = self._birth(near, near_fd)
            except VethError as error:
                # rtnl_newlink() looks the near end's index up before anything is made
                if error.errno == errno.EBUSY and near.index is not None and near.index != far_link.state.ifindex:
                    raise VethError(errno.EEXIST, error.op, error.ifname) from error
                raise
            undo.callback(near_link.close)
            put_filters(near_link, far_link)
            with suppress(VethError):  # it is done again once their news reach us
                publish(self.nursery, near_link, far_link)
                publish(self.nursery, far_link, near_link)
            undo.pop_all()
            return near_link, far_link

    def _locate(self, tap: Tap) -> tuple[Place, str]:
        place = self.nursery.locate(tap)
        return place, netns.label(place.netns_inode, self.nursery.own_inode)

    def _bury(self, link: Link) -> None:
        # under the lock: nobody makes it persistent between its deletion, should that fail, and its end
        with link.tap.lock, closing(link), suppress(VethError):
            if link.kept:  # our closing is not the last: the device must be told
                self.nursery.delete(link.tap)

    def _birth(self, link: LinkSpec, netns_fd: int) -> Link:
        label = netns.label(netns.inode(netns_fd), self.nursery.own_inode)
        tap, place = self.nursery.birth(_with_mac(link), netns_fd)
        return Link(tap, place, label, own_alias=bool(link.alias))


def _pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Give a pool whose threads run already: nothing that is under way ever needs one that cannot be had.

    Raises VethError EAGAIN.
    """
    pool = ThreadPoolExecutor(threads, name)
    together = threading.Barrier(threads)
    try:
        for _ in range(threads):
            pool.submit(together.wait)
    except RuntimeError as error:  # Python's word for EAGAIN of pthread_create()
        together.abort()
        pool.shutdown()
        raise VethError(errno.EAGAIN, "start", reason=f"no thread {name} can be started") from error
    return pool


def _open(link: LinkSpec, fds: Sequence[int] | None) -> int:
    """Open the namespace that an end is to be made in. Raises VethError."""
    try:
        return netns.open_ref(link.netns, fds)
    except VethError as error:
        raise VethError(error.errno, "newlink", link.name or "", error.reason) from error


def put_filters(near: Link, far: Link) -> None:
    """Put the oversize filter before both senders, where this machine allows it; the engine checks in any case."""
    for sender, receiver in ((near, far), (far, near)):
        with suppress(VethError):
            sender.filter = TunFilter(sender.tap.fds[0], forward_limit(receiver.state.mtu or MTU))


def _unwanted(birth: Future[tuple[Link, Link]]) -> None:
    """Undo a birth that nobody waits for any more."""
    if not birth.cancelled() and birth.exception() is None:
        for link in birth.result():
            link.close()


def _with_mac(link: LinkSpec) -> LinkSpec:
    """Give the link a random MAC where it says none, as eth_random_addr() would, but set: so udev leaves it alone."""
    if link.address is not None:
        return link
    mac = bytearray(os.urandom(6))
    mac[0] = mac[0] & 0xFE | 0x02
    return msgspec.structs.replace(link, address=mac.hex(":"))
