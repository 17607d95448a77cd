"""What a living pair needs of the manager that keeps it, and of the desk that hands it rtnetlink's messages."""

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
    """Hands rtnetlink's messages to the pairs: newsdesk.NewsDesk."""

    def placed(self, key: LinkKey, pair: Pair_contra, side: Side) -> None:
        """Hand messages about that link to pair from now on."""

    def catch_up(self) -> None:
        """Deliver all that the kernel has said until now."""

    def left(self, key: LinkKey, pair: Pair_contra) -> None:
        """Stop handing on messages about that link, if they went to pair."""


class Context(Protocol[Pair_contra]):
    """What a pair lives in: manager.Manager."""

    hub: EventHub
    tuning: Tuning
    workers: Workers

    @property
    def desk(self) -> Desk[Pair_contra]:
        """The desk that hands rtnetlink's messages to the pairs."""

    def changed(self, pair: Pair_contra) -> None:
        """Write the pair down again for a successor: what is known of it has changed."""

    def ended(self, pair: Pair_contra, reason: str) -> None:
        """Delete what is left of the pair: one of its ends is gone."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work as a task. The context keeps a reference to it and logs its failure."""
