"""What a living pair needs of whoever keeps it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from vethd.kernel.watcher import LinkKey
from vethd.model.state import Side
from vethd.pairs.events import EventHub
from vethd.pairs.tuning import Tuning
from vethd.pairs.workers import Workers

if TYPE_CHECKING:
    from vethd.pairs.pair import LivePair


class Desk(Protocol):
    """Who hands on rtnetlink's news: newsdesk.NewsDesk."""

    def placed(self, key: LinkKey, pair: LivePair, side: Side) -> None:
        """Hand on the news of that link from now on."""

    def left(self, key: LinkKey, pair: LivePair) -> None:
        """Hand on no more news of that link, if they were pair's."""


class Owner(Protocol):
    """Who keeps the pairs: the manager."""

    hub: EventHub
    tuning: Tuning
    workers: Workers

    @property
    def desk(self) -> Desk:
        """Who hands on rtnetlink's news."""

    def ended(self, pair: LivePair, reason: str) -> None:
        """Bury the pair: one of its ends is gone."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work as a task that is not forgotten."""
