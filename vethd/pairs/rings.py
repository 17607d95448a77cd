"""Keep the ring of each device of a pair at its configured length when a program changes the device's txqueuelen.

Theory of operation. On veth txqueuelen limits nothing, and programs set it to any value, 0 included. On a TAP the
kernel has one number for txqueuelen and for the ring in which frames wait, so a small value would lose frames. The
device gets queue_len() of the requested txqueuelen and of the ring's setting. If rtnetlink reports a length that we did
not set, another program requested it: it is noted as the requested value, and the device gets its ring back at once.
While a change of ours is in progress (asked()) the device may have either length, so reports are ignored until the
change is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vethd.kernel.births import Nursery
from vethd.kernel.linkstate import LinkState
from vethd.model.spec import LinkSpec, PairSpec
from vethd.model.state import Side
from vethd.pairs.context import Context
from vethd.pairs.link import Link


class Rings:
    """The rings of one pair's two devices. Use on the loop. It does not refer to the pair, which refers to it."""

    def __init__(self, links: tuple[Link, Link], context: Context[Any]) -> None:
        """Manage the rings of links, the ends of a pair."""
        self._links = links
        self._context = context
        self._changing = 0

    def tune(self, spec: PairSpec) -> None:
        """Set the rings to the present values of spec and of the context's tuning."""
        for side, end in zip(Side, (spec.near_end(), spec.far_end()), strict=True):
            self._links[side].ring = self._context.tuning.ring(end)
            self._keep(side)

    def learn(self, side: Side, before: LinkState, now: LinkState) -> bool:
        """Process a change of the end at side that rtnetlink reports; return whether its stored length changed."""
        link = self._links[side]
        if self._changing or now.txqueuelen in (before.txqueuelen, link.queue_len):
            return False
        link.txqueuelen = now.txqueuelen
        self._keep(side)
        return True

    @contextmanager
    def asked(self, changes: Iterable[tuple[Side, LinkSpec]]) -> Iterator[None]:
        """Store the ring lengths that changes request while the body applies them; restore the old ones if it fails."""
        before = [(link.txqueuelen, link.ring) for link in self._links]
        for side, change in changes:
            link = self._links[side]
            link.txqueuelen = link.txqueuelen if change.txqueuelen is None else change.txqueuelen
            link.ring = link.ring if change.ring is None else self._context.tuning.ring(change)
        self._changing += 1
        try:
            yield
        except BaseException:
            for link, (txqueuelen, ring) in zip(self._links, before, strict=True):
                link.txqueuelen, link.ring = txqueuelen, ring
            raise
        finally:
            self._context.desk.catch_up()
            self._changing -= 1
            for side in Side:
                self._keep(side)

    def _keep(self, side: Side) -> None:
        """Set the device's length if it differs from the required one."""
        link = self._links[side]
        if link.state.txqueuelen != link.queue_len:
            workers = self._context.workers
            self._context.spawn(workers.insist(_set, workers.nursery, link))


def _set(nursery: Nursery, link: Link) -> None:
    """Set the device's length; for a worker thread. Raises VethError."""
    nursery.change(link.tap, LinkSpec(txqueuelen=link.queue_len))
