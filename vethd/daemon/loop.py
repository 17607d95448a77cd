"""The daemon's event loop: uvloop's, or asyncio's own where uvloop is not installed.

A daemon that takes over imports this early, so nothing is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

LoopFactory = Callable[[], "AbstractEventLoop"]


def new_event_loop() -> AbstractEventLoop:
    """Return a new loop."""
    try:
        import uvloop  # noqa: PLC0415  as late as possible
    except ImportError:
        import asyncio  # noqa: PLC0415  as above

        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def is_fast() -> bool:
    """Return whether uvloop is installed."""
    try:
        import uvloop  # noqa: F401, PLC0415  as above
    except ImportError:
        return False
    return True


def run_loop(main: Coroutine[Any, Any, None], factory: LoopFactory = new_event_loop) -> None:
    """Run main to its end, on the loop that factory returns, and close the loop."""
    import asyncio  # noqa: PLC0415  as above

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
