"""All that an end shows and lets one set, beside an end of a kernel's veth made for the comparison.

    a: va, ka ==== b: vb, kb        ka and kb are always the kernel's

sysfs, rtnetlink, ethtool by netlink and by ioctl, the netdev family, sysctls: some four hundred values. What a new
kernel adds to one of the two drivers is in no table, and the test fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lib.backends import KernelVeth
from tests.lib.lab import End, Lab, Wire
from tests.lib.shown import everything
from vethd.model.spec import LinkSpec

pytestmark = pytest.mark.without_frames


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
def test_what_an_end_shows(lab: Lab, up: bool) -> None:
    a, b = lab.netns("a", ipv6=True), lab.netns("b", ipv6=True)
    wire = lab.pair(a, b, LinkSpec(queues=1), LinkSpec(queues=1))
    KernelVeth(lab.backend.home).newlink(lab.spec(a, b, LinkSpec(name="ka", queues=1), LinkSpec(name="kb", queues=1)))
    twin = Wire(End(a, "ka"), End(b, "kb"))
    if up:
        wire.up()
        twin.up()
    here, there = everything(wire.a), everything(twin.a)
    expected = lab.backend.shows()
    if not up and lab.backend.differs("noqueue-from-the-start"):
        expected["link qdisc"] = ("noop", "noqueue")
    found = {name: (there.get(name), here.get(name)) for name in here | there}
    assert {name: values for name, values in found.items() if values[0] != values[1]} == expected


def test_queues_nobody_asked_for(lab: Lab, wire: Wire) -> None:
    """A veth has as many as there may be CPUs, and begins by using one."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split("-")[-1]
    for end in (wire.a, wire.b):
        queues = 1 if lab.backend.differs("one-queue-by-default") else int(last) + 1
        assert f" numtxqueues {queues} numrxqueues {queues} " in end.netns.command("ip", "-d", "link", "show", end.name)
