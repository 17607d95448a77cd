"""The peer's name on a device: written where it is not there already, and never over what a user wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.kernel.lib import House
from vethd.kernel.births import Nursery
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.tun import Tap
from vethd.model.spec import LinkSpec


@pytest.fixture
def born(house: House) -> Iterator[tuple[Nursery, Tap]]:
    """Yield a nursery and a device that it bore."""
    with closing(Nursery()) as nursery:
        tap, _ = nursery.birth(LinkSpec(name="va"), house.net().fd)
        with closing(tap):
            yield nursery, tap


def alias(nursery: Nursery, tap: Tap) -> str:
    """Read the device's alias."""
    (state,) = nursery.survey([tap]).values()
    return state.alias


def test_what_is_so_is_not_written_again(born: tuple[Nursery, Tap], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user writes between our looking and our writing would be lost."""
    nursery, tap = born
    nursery.publish(tap, ("peer vb", ""), ("va@vb", ""))
    assert alias(nursery, tap) == "peer vb"
    written: list[LinkSpec] = []
    monkeypatch.setattr(Rtnl, "set_link", lambda _self, _ifindex, spec: written.append(spec))
    nursery.publish(tap, ("peer vb", "peer vb"), ("va@vb", "va@vb"))
    assert not written
    nursery.publish(tap, ("peer vz", "peer vb"), ("va@vz", "va@vb"))
    assert written == [LinkSpec(alias="peer vz")]


def test_alias_of_a_user_stays(born: tuple[Nursery, Tap]) -> None:
    nursery, tap = born
    nursery.publish(tap, ("peer vb", ""), ("va@vb", ""))
    nursery.change(tap, LinkSpec(alias="mine"))
    nursery.publish(tap, ("peer vz", "peer vb"), ("va@vz", "va@vb"))
    assert alias(nursery, tap) == "mine"
