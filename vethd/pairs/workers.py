"""Run blocking calls off the loop: births one at a time, chores one at a time, carriers in order, burials in parallel.

Each of these calls takes the RTNL lock and so may wait for any other RTNL user of the system; none may run on the
loop's thread. Births have a thread of their own: a slow birth (two moves, 14 ms each) must not delay the noqueue of a
pair that is already forwarding. Closing a TAP deletes it and waits for RCU; those waits overlap well.
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

from vethd.kernel import bpf, netns
from vethd.kernel.births import Nursery, Place
from vethd.kernel.steering import Steering
from vethd.kernel.tun import Tap
from vethd.kernel.tunfilter import TunFilter
from vethd.model.errors import VethError
from vethd.model.spec import MTU, LinkSpec, PairSpec, queue_len
from vethd.model.verdict import forward_limit
from vethd.pairs.link import Link

T = TypeVar("T")
RingOf = Callable[[LinkSpec], int]

log = structlog.get_logger()

_BURIALS = 8
_PAUSES_S = (*(0.01 * 2**n for n in range(10)), *(10.24 for _ in range(5)))  # a minute in all
_FOR_GOOD = (errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP)


class Workers:
    """The threads, and the nursery whose calls they run."""

    def __init__(self) -> None:
        """Make the staging namespace. Raises VethError EPERM without CAP_SYS_ADMIN."""
        self.nursery = Nursery()
        self._births = _pool(1, "vethd-birth")
        self._chores = _pool(1, "vethd-chore")
        self._carriers = _pool(1, "vethd-carrier")
        self._burials = _pool(_BURIALS, "vethd-burial")

    async def make(self, spec: PairSpec, fds: Sequence[int] | None, ring: RingOf) -> tuple[Link, Link]:
        """Make both devices of a valid spec, the peer first, down and without carrier; return (near, far).

        "fd:N" refers to fds; ring returns the length of an end's ring. Raises VethError, and then no device remains.
        """
        birth = self._births.submit(self._make, spec, fds, ring)
        try:
            return await asyncio.wrap_future(birth)
        except asyncio.CancelledError:
            birth.add_done_callback(_unwanted)
            raise
        finally:
            del birth  # it holds its failure, whose traceback holds this frame

    async def chore(self, function: Callable[..., T], *args: object) -> T:
        """Run a blocking function of the kernel room on the chores' thread, after the chores before it."""
        return await self._run(self._chores, function, *args)

    async def insist(self, function: Callable[..., T], *args: object) -> T | None:
        """Retry function as a chore until it succeeds; return None if it never can (device gone), or after a minute.

        All other failures are temporary: no fds, no memory, or a device that keeps moving. function must allow another
        call after a failure.
        """
        for pause_s in _PAUSES_S:
            try:
                return await self.chore(function, *args)
            except VethError as error:
                if error.errno in _FOR_GOOD:
                    return None
                log.warning("chore failed, retrying", reason=str(error), after_s=pause_s)
                await asyncio.sleep(pause_s)
        return None

    async def locate(self, tap: Tap) -> tuple[Place, str] | None:
        """Find a device and the label of its namespace; None as for insist()."""
        return await self.insist(self._locate, tap)

    def set_carriers(self, links: Sequence[Link], *, on: bool, announce: Link | None = None) -> None:
        """Turn carriers on or off, in order, on the carriers' thread, as every ioctl of a TAP takes the RTNL lock.

        announce is the link whose addresses the kernel is to announce under the new carrier (Nursery.settle()).

        The kernel's link watch may delay the consequences of a change by a second: senders go on sending after a loss
        of carrier, IPv6 does not start after a gain, and rtnetlink reports neither. A request for the link makes it act
        at once (Nursery.settle()), but takes a hundred times as long as the ioctl, so all carriers are set first.
        """
        for link in links:
            link.epoch += 1
        tap = announce.tap if announce is not None else None
        self._carriers.submit(self._set_carriers, [link.tap for link in links], on=on, announce=tap)

    async def carriers_set(self) -> None:
        """Wait until every change of carrier that was requested until now is done."""
        await self._run(self._carriers, lambda: None)

    def _set_carriers(self, taps: Sequence[Tap], *, on: bool, announce: Tap | None) -> None:
        for tap in taps:
            try:
                tap.set_carrier(on=on)
            except VethError:
                log.exception("carrier not set", on=on)
        for tap in taps:
            self.nursery.settle(tap, announce=tap is announce)

    async def bury(self, links: Iterable[Link]) -> None:
        """Delete the devices in parallel, even if another process holds them. A link that is already gone is no error.

        Completes even if the caller is cancelled, as no other code refers to these devices any more.
        """
        await asyncio.shield(asyncio.gather(*(self._run(self._burials, self._bury, link) for link in links)))

    async def let_go(self, links: Iterable[Link]) -> None:
        """Close our fds of the devices. A device disappears unless another process also holds its fds."""
        await asyncio.gather(*(self._run(self._burials, link.close) for link in links))

    def close(self) -> None:
        """Wait for the calls in progress, then end the threads and close the staging namespace."""
        for pool in (self._births, self._chores, self._carriers, self._burials):
            pool.shutdown()
        self.nursery.close()

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

    def _make(self, spec: PairSpec, fds: Sequence[int] | None, ring: RingOf) -> tuple[Link, Link]:
        near, far = spec.near_end(), spec.far_end()
        with ExitStack() as always, ExitStack() as undo:
            near_fd = _open(near, fds)
            always.callback(os.close, near_fd)
            far_fd = _open(far, fds)
            always.callback(os.close, far_fd)
            steering, no_bpf = _steering(spec, always)
            far_link = self._birth(far, far_fd, ring(far), steering)
            undo.callback(far_link.close)
            try:
                near_link = self._birth(near, near_fd, ring(near), steering)
            except VethError as error:
                # rtnl_newlink() checks the near end's index before it makes a device
                if error.errno == errno.EBUSY and near.index is not None and near.index != far_link.state.ifindex:
                    raise VethError(errno.EEXIST, error.op, error.ifname) from error
                raise
            undo.callback(near_link.close)
            put_filters(near_link, far_link)
            if no_bpf:
                log.warning("no BPF, pair made without its latency queue", name=near_link.state.name, reason=no_bpf)
            undo.pop_all()
            return near_link, far_link

    def _locate(self, tap: Tap) -> tuple[Place, str]:
        place = self.nursery.locate(tap)
        return place, netns.label(place.netns_inode, self.nursery.own_inode)

    def _bury(self, link: Link) -> None:
        # the lock keeps another thread from making the device persistent after a failed deletion and before the close
        with link.tap.lock, closing(link), suppress(VethError):
            if link.kept:  # a keeper holds duplicates, so closing our fds would not delete the device
                self.nursery.delete(link.tap)

    def _birth(self, link: LinkSpec, netns_fd: int, ring: int, steering: Steering | None) -> Link:
        label = netns.label(netns.inode(netns_fd), self.nursery.own_inode)
        device = msgspec.structs.replace(_with_mac(link), txqueuelen=queue_len(link.txqueuelen, ring))
        tap, place = self.nursery.birth(device, netns_fd, steering)
        return Link(tap, place, label, link.txqueuelen, ring)


def _pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads are already running, so that no later call fails for lack of a thread.

    Raises VethError EAGAIN.
    """
    pool = ThreadPoolExecutor(threads, name)
    together = threading.Barrier(threads)
    try:
        for _ in range(threads):
            pool.submit(together.wait)
    except RuntimeError as error:  # Python raises it for EAGAIN of pthread_create()
        together.abort()
        pool.shutdown()
        raise VethError(errno.EAGAIN, "start", reason=f"cannot start the thread {name}") from error
    return pool


def _open(link: LinkSpec, fds: Sequence[int] | None) -> int:
    """Open the namespace for an end. Raises VethError."""
    try:
        return netns.open_ref(link.netns, fds)
    except VethError as error:
        raise VethError(error.errno, "newlink", link.name or "", error.reason) from error


def _steering(spec: PairSpec, stack: ExitStack) -> tuple[Steering | None, str]:
    """Load the steering program for a pair with latency_queue, until stack closes it; or return why there is no BPF.

    Raises VethError on a temporary error, such as a lack of fds: otherwise the pair would never get its latency queue.
    """
    if not spec.latency_queue:
        return None, ""
    try:
        return stack.enter_context(Steering()), ""
    except VethError as error:
        if not bpf.unavailable(error):
            raise
        return None, str(error)


def put_filters(near: Link, far: Link) -> None:
    """Attach the oversize filter to both devices, if this machine allows it; the engine checks in any case."""
    for sender, receiver in ((near, far), (far, near)):
        with suppress(VethError):
            sender.filter = TunFilter(sender.tap.fds[0], forward_limit(receiver.state.mtu or MTU))


def _unwanted(birth: Future[tuple[Link, Link]]) -> None:
    """Undo a birth whose caller was cancelled."""
    if not birth.cancelled() and birth.exception() is None:
        for link in birth.result():
            link.close()


def _with_mac(link: LinkSpec) -> LinkSpec:
    """Give a link without a MAC a random one as eth_random_addr() does, but as a set MAC, so udev leaves it alone."""
    if link.address is not None:
        return link
    mac = bytearray(os.urandom(6))
    mac[0] = mac[0] & 0xFE | 0x02
    return msgspec.structs.replace(link, address=mac.hex(":"))
