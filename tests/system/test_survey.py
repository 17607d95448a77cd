"""Whose counters are read: the devices that were asked for, however many others stand beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.kernel.lib import House
from vethd.kernel.births import _FEW, Nursery
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.tun import Tap
from vethd.model.spec import LinkSpec

STRANGERS = 5


@pytest.fixture
def born(house: House) -> Iterator[tuple[Nursery, list[Tap], set[str]]]:
    """Yield a nursery, devices that it bore in one namespace, and the names of strangers' beside them."""
    with ExitStack() as stack:
        net = house.net()
        nursery = stack.enter_context(closing(Nursery()))
        taps = []
        for number in range(_FEW + 1):
            tap, _ = nursery.birth(LinkSpec(name=f"v{number}"), net.fd)
            taps.append(stack.enter_context(closing(tap)))
        strangers = {f"s{number}" for number in range(STRANGERS)}
        for name in strangers:
            net.ip(f"link add {name} type bridge")
        yield nursery, taps, strangers


def test_strangers_are_not_asked(born: tuple[Nursery, list[Tap], set[str]]) -> None:
    nursery, taps, _ = born
    found = nursery.survey(taps[:2])
    assert sorted(state.name for state in found.values()) == ["v0", "v1"]


def test_many_are_read_at_once(born: tuple[Nursery, list[Tap], set[str]]) -> None:
    nursery, taps, strangers = born
    names = {state.name for state in nursery.survey(taps).values()}
    assert names >= strangers | {f"v{number}" for number in range(len(taps))}


def test_what_is_gone_hides_nobody(born: tuple[Nursery, list[Tap], set[str]]) -> None:
    nursery, taps, _ = born
    nursery.delete(taps[0])
    taps[1].close()
    found = nursery.survey(taps[:4])
    assert sorted(state.name for state in found.values()) == ["v2", "v3"]


def test_what_is_renamed_meanwhile_is_read(
    born: tuple[Nursery, list[Tap], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    nursery, taps, _ = born
    ask, names = Rtnl.ifindex, iter(["w1", "w2"])

    def rename_and_ask(self: Rtnl, name: str, op: str = "getlink") -> int:
        if name == taps[1].ifname and (new := next(names, None)):
            self.set_link(ask(self, name), LinkSpec(name=new))
        return ask(self, name, op)

    monkeypatch.setattr(Rtnl, "ifindex", rename_and_ask)
    assert sorted(state.name for state in nursery.survey(taps[:2]).values()) == ["v0", "w2"]
