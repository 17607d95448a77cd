"""One fixture: a house with namespaces and TAPs, swept afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.lib import House, Observatory
from tests.lib.leaks import Traces


@pytest.fixture(scope="session")
def observatory(root: None) -> Iterator[Observatory]:  # noqa: ARG001 - asked for its refusal
    """Yield the place from which the death of a namespace is seen."""
    with Observatory() as it:
        yield it


@pytest.fixture
def house(observatory: Observatory) -> Iterator[House]:
    """Yield a house to build in; prove that nothing of it is left: descriptors, threads, children, namespaces."""
    before = Traces.now()
    with House(observatory) as it:
        yield it
    observatory.assert_all_dead()
    before.assert_nothing_left()
