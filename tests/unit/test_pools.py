"""Threads are started with the pool, or there is no pool."""

from __future__ import annotations

import errno
import threading

import pytest

from vethd.model.errors import VethError
from vethd.pairs.workers import _pool


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_all_threads_run_from_the_beginning() -> None:
    pool = _pool(3, "pool-a")
    assert len(named("pool-a")) == 3
    assert pool.submit(lambda: 7).result() == 7
    pool.shutdown()
    assert named("pool-a") == []


def test_a_machine_without_another_thread_is_said_so_and_none_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    start, left = threading.Thread.start, [2]

    def refuse(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(VethError, match="cannot start the thread pool-b") as caught:
        _pool(3, "pool-b")
    assert caught.value.errno == errno.EAGAIN
    assert named("pool-b") == []
