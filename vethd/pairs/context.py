"""The interfaces of a living pair's environment: its manager, and the desk that delivers rtnetlink messages to it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from vethd.kernel.watcher import LinkKey
from vethd.model.state import Side
from vethd.pairs.events import EventHub
from vethd.pairs.tuning import Tuning
from vethd.pairs.workers import Workers

Pair_contra = TypeVar("Pair_contra", contravariant=True)
"""The living pair. Its class, pair.LivePair, imports this module."""


class Desk(Protocol[Pair_contra]):
    """Delivers rtnetlink messages to the pairs: newsdesk.NewsDesk."""

    def placed(self, key: LinkKey, pair: Pair_contra, side: Side) -> None:
        """Deliver messages about that link to pair from now on."""

    def catch_up(self) -> None:
        """Deliver every message that the kernel has queued until now."""

    def left(self, key: LinkKey, pair: Pair_contra, side: Side) -> None:
        """Stop delivering messages about that link, if they went to pair's end at side."""


class Context(Protocol[Pair_contra]):
    """The owner of a pair: manager.Manager."""

    hub: EventHub
    tuning: Tuning
    workers: Workers

    @property
    def desk(self) -> Desk[Pair_contra]:
        """The desk that delivers rtnetlink messages to the pairs."""

    def changed(self, pair: Pair_contra) -> None:
        """Record the pair again for a successor, as its state has changed."""

    def ended(self, pair: Pair_contra, reason: str) -> None:
        """Delete the rest of the pair, as one of its ends is gone."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work as a task. The context keeps a reference to it and logs its failure."""
