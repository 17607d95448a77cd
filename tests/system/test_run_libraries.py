"""Libraries and plugins that make veths by themselves, under vethd-run: pyroute2 and the reference CNI bridge."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.cni import BRIDGE, REFERENCE, Case, Host, case_fixture
from tests.lib.door import Door
from tests.lib.lab import Lab
from tests.lib.site import Site

__all__ = ["case_fixture"]  # pytest knows it as case

PYROUTE2 = """
from pyroute2 import NDB, IPRoute

with IPRoute() as route:
    route.link("add", ifname="pa", kind="veth", peer={"ifname": "pb"})
    (index,) = route.link_lookup(ifname="pa")
    print(sorted(route.link_lookup(kind="veth")) == sorted([index, *route.link_lookup(ifname="pb")]))
    print([route.get_links(index)[0].get_attr("IFLA_LINK")] == route.link_lookup(ifname="pb"))
    route.link("del", index=index)
with NDB() as ndb:
    with ndb.interfaces.create(ifname="na", kind="veth", peer="nb"):
        pass
    print(ndb.interfaces["na"]["kind"], ndb.interfaces["nb"]["kind"])
    ndb.interfaces["na"].remove().commit()
"""


@pytest.fixture
def door(site: Site, tmp_path: Path) -> Iterator[Door]:
    door = Door(site, tmp_path)
    yield door
    door.wait_over()


def test_pyroute2(door: Door, lab: Lab) -> None:
    said = door.output(lab.netns("a"), sys.executable, "-c", PYROUTE2)
    assert said.splitlines() == ["True", "True", "veth veth"]


@pytest.mark.heavy
def test_the_reference_cni_plugin(case: Case) -> None:
    """ADD, CHECK and DEL of bridge, started by a wrapper of the same name."""
    directory = case.directory / "doors"
    directory.mkdir()
    wrapper = directory / "bridge"
    program = Path(sys.executable).with_name("vethd-run")
    wrapper.write_text(f"#!/bin/sh\nexec {program} {REFERENCE}/bridge\n")
    wrapper.chmod(0o755)
    host = Host(case.site.home, f"{directory}:{REFERENCE}", case.ours.environ, plugin="bridge")
    container = case.container(host)
    conf = case.conf()
    result = container.add(conf)
    assert {"eth0"} < {link["name"] for pair in case.site.daemon.pairs() for link in pair["links"]}
    assert container.call("CHECK", conf | {"prevResult": result}).ok == {}
    container.delete(conf | {"prevResult": result})
    assert container.netns.names() == set()
    assert case.site.daemon.pairs() == []
    assert host.netns.names() <= {BRIDGE}
