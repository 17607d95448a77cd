"""MountWatch hears of every namespace that gets or loses its name, on either loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from tests.lib.leaks import PREFIX
from tests.lib.netns import Netns, command
from vethd.kernel.mounts import MountWatch

HEARD_S = 20.0


LOOPS = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
def test_heard_of_at_once_and_every_time(root: None, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:  # noqa: ARG001 - the check that we may
    async def listen() -> None:
        changed = asyncio.Event()
        others = asyncio.Event()
        watches = [MountWatch(asyncio.get_running_loop(), event.set) for event in (changed, others)]
        try:
            await asyncio.wait_for(changed.wait(), HEARD_S)  # the word at the beginning
            for what in ("add", "del", "add", "del"):
                changed.clear()
                await asyncio.to_thread(command, ["ip", "netns", what, f"{PREFIX}mounts"])
                await asyncio.wait_for(changed.wait(), HEARD_S)
        finally:
            for watch in watches:
                watch.close()
            netns = Netns(f"{PREFIX}mounts")
            if netns.exists:  # after a failure
                netns.delete()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(listen())


@LOOPS
def test_heard_of_before_the_loop_has_turned_once(
    root: None,  # noqa: ARG001 - the check that we may
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A loop that listens no sooner than it next waits (uvloop) must not lose what came before that."""

    async def listen() -> None:
        changed = asyncio.Event()
        watch = MountWatch(asyncio.get_running_loop(), changed.set)
        try:
            command(["ip", "netns", "add", f"{PREFIX}mounts"])
            await asyncio.wait_for(changed.wait(), HEARD_S)
        finally:
            watch.close()
            command(["ip", "netns", "del", f"{PREFIX}mounts"])

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(listen())
