"""Which end gets the kernel's messages about a link, where ends take each other's places."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from tests.unit.test_follow import state
from vethd.kernel.linkstate import LinkState
from vethd.kernel.watcher import Watcher
from vethd.model.state import Side
from vethd.pairs.newsdesk import NewsDesk
from vethd.pairs.pair import LivePair

HERE, THERE = (3, 2), (4, 2)


class StubPair:
    """A pair that leaves the place that it is told to have left, as a living one does."""

    def __init__(self, desk: NewsDesk) -> None:
        self.desk = desk
        self.links = tuple(
            SimpleNamespace(state=state(ifindex=2, name=name), place=SimpleNamespace(key=key))
            for name, key in (("near", HERE), ("far", THERE))
        )
        self.moved: list[Side] = []

    def news(self, side: Side, told: LinkState) -> None:
        assert told.deleted
        assert told.new_nsid is not None
        self.desk.left(self.links[side].place.key, self.living, side)
        self.moved.append(side)

    @property
    def living(self) -> LivePair:
        return cast("LivePair", self)


def desk_and_pair() -> tuple[NewsDesk, StubPair, dict[Any, Any]]:
    desk = NewsDesk.__new__(NewsDesk)  # without its netlink socket
    desk._index = {}
    desk._watcher = cast("Watcher", SimpleNamespace(catch_up=lambda: None))
    pair = StubPair(desk)
    for side, key in zip(Side, (HERE, THERE), strict=True):
        desk.placed(key, pair.living, side)
    return desk, pair, desk._index


def test_messages_from_before_are_not_delivered_to_an_end_that_came_later() -> None:
    """A link of that key was deleted, and its messages still wait in the socket: they are read first."""
    desk, pair, index = desk_and_pair()
    seen: list[bool] = []
    desk._watcher = cast("Watcher", SimpleNamespace(catch_up=lambda: seen.append((9, 9) in index)))
    desk.placed((9, 9), pair.living, Side.NEAR)
    assert seen == [False]
    assert (9, 9) in index


def test_an_end_whose_place_another_takes_is_told_that_it_moved() -> None:
    """Of the same pair, or of another: the message about its own move would go to the end that is there now."""
    desk, pair, index = desk_and_pair()
    desk.placed(HERE, pair.living, Side.FAR)
    assert pair.moved == [Side.NEAR]
    assert index == {HERE: (pair, Side.FAR), THERE: (pair, Side.FAR)}
    stranger = StubPair(desk)
    desk.placed(HERE, stranger.living, Side.NEAR)
    assert pair.moved == [Side.NEAR, Side.FAR]
    assert index[HERE] == (stranger, Side.NEAR)


def test_an_end_that_is_placed_again_where_it_is_has_not_moved() -> None:
    desk, pair, index = desk_and_pair()
    desk.placed(HERE, pair.living, Side.NEAR)
    assert pair.moved == []
    desk.left(HERE, pair.living, Side.FAR)
    assert index[HERE] == (pair, Side.NEAR)
    desk.left(HERE, pair.living, Side.NEAR)
    assert HERE not in index
