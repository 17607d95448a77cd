"""What ethtool says. Kernel: veth_ethtool_ops."""

from __future__ import annotations

import pytest

from tests.lib import ethtool
from tests.lib.lab import Lab, Wire


def test_settings(wire: Wire) -> None:
    """10,000 Mb/s, full duplex, twisted pair, whatever the state."""
    wanted = ethtool.Settings(10_000, ethtool.DUPLEX_FULL, ethtool.PORT_TP, ethtool.AUTONEG_DISABLE)
    for state in ("down", "up"):
        for end in (wire.a, wire.b):
            end.set(state)
            assert ethtool.settings(end.netns, end.name) == wanted


def test_link_detected_is_the_carrier(wire: Wire) -> None:
    def detected() -> tuple[int, int]:
        first, second = (ethtool.value(end.netns, end.name, ethtool.GLINK) for end in (wire.a, wire.b))
        return first, second

    assert detected() == (0, 0)
    wire.a.up()
    assert detected() == (0, 0)
    wire.b.up()
    wire.wait_carrier()
    assert detected() == (1, 1)
    wire.a.down()
    wire.b.wait_carrier(False)
    assert detected() == (0, 0)


@pytest.mark.parametrize(
    "switch", [ethtool.GTXCSUM, ethtool.GSG, ethtool.GTSO, ethtool.GGSO], ids=["tx", "sg", "tso", "gso"]
)
def test_offloads_are_on(wire: Wire, switch: int) -> None:
    for end in (wire.a, wire.b):
        assert ethtool.value(end.netns, end.name, switch) == 1


def test_rx_checksumming(lab: Lab, wire: Wire) -> None:
    shown = 0 if lab.backend.differs("rx-checksumming-is-off") else 1
    assert ethtool.value(wire.a.netns, wire.a.name, ethtool.GRXCSUM) == shown


def test_offloads_of_a_user_stay_off(live: Wire) -> None:
    """Nobody switches them on again."""
    live.a.netns.command("ethtool", "-K", live.a.name, "tso", "off", "gso", "off")
    live.b.down()
    live.a.wait_carrier(False)
    live.up()
    assert ethtool.value(live.a.netns, live.a.name, ethtool.GTSO) == 0
    assert ethtool.value(live.a.netns, live.a.name, ethtool.GGSO) == 0


def test_driver(lab: Lab, wire: Wire) -> None:
    name = "tun" if lab.backend.differs("kind-is-tun") else "veth"
    assert ethtool.driver(wire.a.netns, wire.a.name).name == name


def test_statistics_of_its_own(lab: Lab, wire: Wire) -> None:
    none = lab.backend.differs("no-ethtool-statistics")
    assert (ethtool.driver(wire.a.netns, wire.a.name).n_stats == 0) == none
