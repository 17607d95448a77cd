"""Every change of carrier is told at once: the kernel's link watch, left alone, takes up to a second."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vethd.pairs.workers import Workers


@pytest.mark.parametrize("on", [True, False])
def test_the_link_is_asked_for_after_its_carrier_is_set(on: bool) -> None:
    done: list[Any] = []
    tap: Any = SimpleNamespace(set_carrier=lambda *, on: done.append(on))
    workers: Any = SimpleNamespace(nursery=SimpleNamespace(settle=done.append))
    Workers._set_carrier(workers, tap, on=on)
    assert done == [on, tap]
