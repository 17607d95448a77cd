"""What vethd restores after it has the kernel announce addresses: the link's neighbours, and nothing else."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

import pytest

from tests.lib.lab import Lab
from vethd.kernel import netns
from vethd.kernel.announce import Announcer
from vethd.kernel.births import Nursery
from vethd.model.spec import LinkSpec

MAC = "02:00:00:00:00:77"


@pytest.mark.parametrize("before", ["", "192.0.2.7 lladdr 02:00:00:00:00:01"])
def test_a_neighbour_that_is_added_meanwhile_stays(lab: Lab, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """Added, or changed, between the look at the entries and the new MAC, which deletes all of them."""
    there = lab.netns()
    there.sysctl("net/ipv4/conf/all/arp_notify", "1")
    real = Announcer.set_link

    def set_link(self: Announcer, *args: Any, **more: Any) -> None:
        there.ip(f"neigh replace 192.0.2.7 lladdr {MAC} dev va nud permanent")
        real(self, *args, **more)

    monkeypatch.setattr(Announcer, "set_link", set_link)
    fd = netns.open_ref(there.name)
    with closing(Nursery()) as nursery:
        tap, place = nursery.birth(LinkSpec(name="va", address="02:00:00:00:00:0a"), fd)
        with closing(tap):
            there.ip("link set va up")
            if before:
                there.ip(f"neigh add {before} dev va nud permanent")
            with netns.inside(fd), Announcer() as announcer:
                announcer.announce(place.state)
            assert there.command("ip", "neigh", "show", "dev", "va").split() == [
                "192.0.2.7",
                "lladdr",
                MAC,
                "PERMANENT",
            ]
    os.close(fd)


def test_a_bridge_forgets_the_old_mac_of_its_port(lab: Lab) -> None:
    """The bridge reports its entry for the port's own MAC as a neighbour. Added again, it would never be deleted."""
    there = lab.netns()
    there.sysctl("net/ipv4/conf/all/arp_notify", "1")
    there.ip("link add br0 address 02:00:00:00:00:99 type bridge")
    fd = netns.open_ref(there.name)
    with closing(Nursery()) as nursery:
        tap, place = nursery.birth(LinkSpec(name="va", address="02:00:00:00:00:0a", master="br0"), fd)
        with closing(tap):
            there.ip("link set va up")
            with netns.inside(fd), Announcer() as announcer:
                announcer.announce(place.state)
            there.ip(f"link set va address {MAC}")
            entries = there.command("bridge", "fdb", "show", "br", "br0").splitlines()
            assert [entry.split()[0] for entry in entries if "dev va master br0" in entry] == [MAC]
    os.close(fd)
