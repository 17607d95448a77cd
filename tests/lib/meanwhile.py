"""A thread that works while a test's body runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def meanwhile(work: Callable[[int], object], name: str) -> Iterator[None]:
    """Run work in a thread of that name; it is given a descriptor that can be read once it is to return.

    What it raises is raised at the end, where the body raises nothing.
    """
    end_r, end_w = os.pipe()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(end_r)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the body's thread
            failed.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        yield
    finally:
        os.write(end_w, b"x")
        thread.join()
        os.close(end_r)
        os.close(end_w)
    if failed:
        raise failed[0]
