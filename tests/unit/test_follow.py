"""An end that moves faster than it is followed: news are taken of where it is, and of nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

from vethd.kernel.births import Place
from vethd.kernel.linkstate import LinkCounters, LinkState
from vethd.kernel.tun import Tap
from vethd.kernel.watcher import LinkKey
from vethd.model.state import Side
from vethd.pairs.context import Context
from vethd.pairs.link import Link
from vethd.pairs.pair import LivePair

NOQUEUE = "noqueue"


def state(**said: object) -> LinkState:
    fields: dict[str, Any] = dict.fromkeys(LinkState._fields, 0)
    return LinkState(**fields | {"name": "va", "counters": LinkCounters(), "altnames": (), "new_nsid": None} | said)


class Daemon:
    """What a pair needs around it: a desk that is an index, and a device that is where the test says."""

    def __init__(self, at: LinkKey) -> None:
        self.index: set[LinkKey] = set()
        self.did: list[object] = []
        self.before_noqueue: Callable[[], None] = lambda: None
        self.before_learning: Callable[[], None] = lambda: None
        self.asked: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []
        links = tuple(Link(cast("Tap", None), Place(key, 7, state()), "red") for key in (at, (0, 9)))
        context = SimpleNamespace(
            desk=SimpleNamespace(
                placed=self.placed,
                left=lambda key, _pair, _side: self.index.discard(key),
                catch_up=self.catch_up,
            ),
            hub=SimpleNamespace(tell=lambda *_args, **_kwargs: None),
            workers=SimpleNamespace(locate=self.locate, insist=self.insist, nursery=SimpleNamespace(noqueue=NOQUEUE)),
            spawn=self.spawn,
        )
        self.pair = LivePair("p1", cast("tuple[Link, Link]", links), cast("Context[LivePair]", context))
        self.index.add(at)

    def catch_up(self) -> None:
        self.before_learning()

    async def locate(self, _tap: Tap) -> tuple[Place, str]:
        answer: asyncio.Future[LinkKey] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        return Place(await answer, 7, state(carrier_changes=2)), "red"

    def placed(self, key: LinkKey, _pair: LivePair, _side: Side) -> None:
        self.index.add(key)
        self.did.append(key)

    async def insist(self, what: object, *_: object) -> None:
        if what is NOQUEUE:
            self.before_noqueue()
            self.did.append(what)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def answer(self, key: LinkKey) -> None:
        """Say to who has asked first where the device is."""
        (await self.asked.get()).set_result(key)


async def test_two_followers_leave_nothing_behind() -> None:
    """The second overtakes the first, which had placed the end in between: there it is not any more."""
    daemon = Daemon((1, 2))
    moved = state(deleted=True, new_nsid=3)
    daemon.pair.news(Side.NEAR, moved)
    await daemon.answer((2, 2))  # the first's look, and so it waits for its next
    first = await daemon.asked.get()
    daemon.pair.news(Side.NEAR, moved)
    second = await daemon.asked.get()
    first.set_result((3, 2))
    second.set_result((4, 2))
    for _ in range(2):
        await daemon.answer((4, 2))  # each looks again until it finds the end where it has placed it
    await asyncio.gather(*daemon.tasks)
    assert daemon.index == {(4, 2)}
    assert daemon.pair.links[Side.NEAR].place.key == (4, 2)


async def test_qdisc_is_set_wherever_it_is_found() -> None:
    """And before its news reach us, which may bring the carrier: what is sent amid a change of qdisc is lost."""
    daemon = Daemon((1, 2))
    daemon.pair.news(Side.NEAR, state(deleted=True, new_nsid=3))
    for key in ((3, 2), (4, 2), (4, 2)):  # moved on, unheard
        await daemon.answer(key)
    await asyncio.gather(*daemon.tasks)
    assert daemon.did == [NOQUEUE, (3, 2), NOQUEUE, (4, 2)]


async def test_an_older_message_does_not_take_a_link_back() -> None:
    """It was sent before the device was looked at, and is read after that."""
    daemon = Daemon((1, 2))
    link = daemon.pair.links[Side.NEAR]
    daemon.before_learning = lambda: daemon.pair.news(Side.NEAR, state(carrier_changes=1))
    daemon.pair.news(Side.NEAR, state(deleted=True, new_nsid=3))
    for _ in range(2):
        await daemon.answer((3, 2))
    await asyncio.gather(*daemon.tasks)
    assert link.state.carrier_changes == 1, "the message counts, and none is left that is older"
    daemon.before_learning = lambda: None
    daemon.pair.news(Side.NEAR, state(deleted=True, new_nsid=3))
    for _ in range(2):
        await daemon.answer((4, 2))
    await asyncio.gather(*daemon.tasks)
    assert link.state.carrier_changes == 2


async def test_pair_that_ends_as_its_qdisc_is_set_is_placed_nowhere() -> None:
    daemon = Daemon((1, 2))
    daemon.pair.news(Side.NEAR, state(deleted=True, new_nsid=3))
    daemon.before_noqueue = daemon.pair.end
    await daemon.answer((3, 2))
    await asyncio.gather(*daemon.tasks)
    assert daemon.did == [NOQUEUE]
    assert daemon.index == set()
