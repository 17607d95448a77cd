"""Every change of carrier is told at once: the kernel's link watch, left alone, takes up to a second."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vethd.model.state import Side
from vethd.pairs.workers import Workers


@pytest.mark.parametrize("on", [True, False])
def test_links_are_asked_for_after_all_carriers_are_set(on: bool) -> None:
    done: list[Any] = []
    taps: list[Any] = [SimpleNamespace(set_carrier=lambda *, on: done.append(on)) for _ in Side]
    settle = lambda tap, *, announce: done.append((tap, announce))  # noqa: E731
    workers: Any = SimpleNamespace(nursery=SimpleNamespace(settle=settle))
    Workers._set_carriers(workers, taps, on=on, announce=taps[1] if on else None)
    assert done == [on, on, (taps[0], False), (taps[1], on)]
