"""Events reach every listener in order, and a slow one waits alone: it loses the oldest and is told how many."""

from __future__ import annotations

import asyncio

from tests.lib.wait import DEADLINE_S
from vethd.model.api import PairEvent
from vethd.pairs.events import BACKLOG, EventHub, Listener


async def take(listener: Listener, count: int) -> list[PairEvent]:
    """Take that many events of a listener."""
    found: list[PairEvent] = []
    async with asyncio.timeout(DEADLINE_S):
        async for event in listener:
            found.append(event)
            if len(found) == count:
                break
    return found


def tell(hub: EventHub, count: int) -> None:
    for _ in range(count):
        hub.tell("link_up")


def test_everybody_hears_everything_in_order() -> None:
    async def scenario() -> None:
        hub = EventHub()
        first, second = hub.listen(), hub.listen()
        hub.tell("pair_created", pair="p1", link="va", netns="red", detail="x")
        hub.tell("carrier_on", pair="p1")
        for listener in (first, second):
            events = await take(listener, 2)
            assert [(event.seq, event.event) for event in events] == [(1, "pair_created"), (2, "carrier_on")]
            assert (events[0].pair, events[0].link, events[0].netns, events[0].detail) == ("p1", "va", "red", "x")

    asyncio.run(scenario())


def test_listener_hears_from_now_on_and_until_closed() -> None:
    async def scenario() -> None:
        hub = EventHub()
        tell(hub, 3)
        listener = hub.listen()
        tell(hub, 1)
        assert [event.seq for event in await take(listener, 1)] == [4]
        listener.close()
        listener.close()
        tell(hub, 1)
        assert not hub._listeners
        assert not listener._backlog

    asyncio.run(scenario())


def test_listener_that_waits_is_woken() -> None:
    async def scenario() -> None:
        hub = EventHub()
        waiting = asyncio.create_task(take(hub.listen(), 2))
        await asyncio.sleep(0)
        tell(hub, 1)
        await asyncio.sleep(0)
        assert not waiting.done()
        tell(hub, 1)
        assert [event.seq for event in await waiting] == [1, 2]

    asyncio.run(scenario())


def test_slow_listener_loses_the_oldest_and_is_told_how_many() -> None:
    async def scenario() -> None:
        hub = EventHub()
        slow, quick = hub.listen(), hub.listen()
        for _ in range(BACKLOG + 10):
            tell(hub, 1)
            await take(quick, 1)
        assert len(slow._backlog) == BACKLOG, "bounded"
        events = await take(slow, BACKLOG + 1)
        assert (events[0].event, events[0].seq, events[0].detail) == ("overflow", 10, "10 events dropped")
        assert [event.seq for event in events[1:]] == list(range(11, BACKLOG + 11))
        assert all(event.event == "link_up" for event in events[1:])
        tell(hub, 1)
        assert [event.event for event in await take(slow, 1)] == ["link_up"], "told once"

    asyncio.run(scenario())


def test_overflow_while_reading_is_told_where_the_gap_is() -> None:
    async def scenario() -> None:
        hub = EventHub()
        listener = hub.listen()
        tell(hub, 3)
        events = aiter(listener)
        assert (await anext(events)).seq == 1
        tell(hub, BACKLOG)
        gap = await anext(events)
        assert (gap.event, gap.detail) == ("overflow", "2 events dropped")
        assert (await anext(events)).seq == 4 == gap.seq + 1

    asyncio.run(scenario())


def test_telling_nobody_is_no_error() -> None:
    hub = EventHub()
    tell(hub, 3)
    assert hub._seq == 3
