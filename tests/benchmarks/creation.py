"""What making a pair takes: `ip link add type veth` beside vethd's API.

By three placements: both ends in the daemon's own namespace, one end in another, both in others. A move of a
device between namespaces costs an rcu_barrier in the kernel, some 14 ms, whoever asks for it. A TAP is born where
/dev/net/tun was opened and has to be moved; a veth is born where it belongs, and so never pays that unless somebody
moves it, which is what the rows "add, then set netns" show.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.benchmarks.data import median
from tests.benchmarks.extra import Extra, Setting, in_turn, inside, labs, p99, span
from tests.benchmarks.tables import Cell, Table
from tests.lib import rtnl
from tests.lib.backends import Vethd
from tests.lib.daemon import Daemon
from tests.lib.netns import Netns
from tests.lib.rtnl import Rtnl, nest, text, u32
from tests.lib.wait import wait_until
from vethd.control.client import Client
from vethd.model.spec import LinkSpec, PairSpec

BASE = "ip link add"
MS = 1e3
ROUNDS, QUICK_ROUNDS = 40, 4

Found = dict[str, dict[str, list[float]]]  # by place, by way: seconds


class Place(NamedTuple):
    """Where a pair is made; None is the daemon's own namespace, which is the caller's, too."""

    name: str
    near: Netns | None
    far: Netns | None


class Maker:
    """Makes va and vb at a place, in every way there is, and clears away."""

    def __init__(self, place: Place, daemon: Daemon, home: Netns, stack: contextlib.ExitStack) -> None:
        """Open, once, what a kept process would hold open."""
        self.place = place
        self.daemon = daemon
        self.client = Client(str(daemon.socket))
        near, far = place.near or home, place.far or home
        self.sockets = [stack.enter_context(Rtnl(netns)) for netns in (near, far)]
        self.far_fd = stack.enter_context(far.path.open()).fileno()
        peer_name = LinkSpec(name="vb", netns=place.far.name if place.far else None)
        self.spec = PairSpec(name="va", netns=place.near.name if place.near else None, peer=peer_name)
        self.body = msgspec.json.encode(self.spec)

    def ways(self) -> dict[str, Callable[[], float]]:
        """Return a measurement for every way, in seconds; each leaves nothing."""
        near, far = self.place.near, self.place.far
        at = ["-n", near.name] if near else []
        to = ["netns", far.name] if far else []
        add = ["ip", *at, "link", "add", "va", "type", "veth", "peer", "name", "vb", *to]
        ways: dict[str, Callable[[], float]] = {
            BASE: partial(self._kernel, partial(_run, [add])),
            "rtnetlink": partial(self._kernel, self._rtnetlink),
        }
        if near or far:
            here = [["ip", "link", "add", "va", "type", "veth", "peer", "name", "vb"]]
            moves = [["ip", "link", "set", name, "netns", ns.name] for name, ns in (("va", near), ("vb", far)) if ns]
            ways["ip link add, then set netns"] = partial(self._kernel, partial(_run, here + moves))
        ways["vethd: Client.create"] = partial(self._vethd, partial(self.client.create, self.spec))
        ways["vethd: HTTP"] = partial(self._vethd, self._http)
        vethctl = [str(Path(sys.executable).with_name("vethctl")), "--socket", str(self.daemon.socket), "add", "va"]
        vethctl += ["--netns", near.name] if near else []
        vethctl += ["--peer", "vb", *(["--peer-netns", far.name] if far else [])]
        ways["vethd: vethctl add"] = partial(self._vethd, partial(_run, [vethctl]))
        return ways

    def _kernel(self, make: Callable[[], object]) -> float:
        taken = span(make)
        self.sockets[0].request(rtnl.RTM_DELLINK, 0, rtnl.ifinfomsg() + nest([(rtnl.IFLA_IFNAME, text("va"))]))
        self._gone()
        return taken

    def _vethd(self, make: Callable[[], object]) -> float:
        taken = span(make)
        for pair in self.client.pairs():
            self.client.delete(pair.id)
        self._gone()
        return taken

    def _gone(self) -> None:
        near, far = self.sockets
        wait_until(lambda: near.getlink("va") is None and far.getlink("vb") is None)

    def _rtnetlink(self) -> None:
        peer = nest([(rtnl.IFLA_IFNAME, text("vb")), (rtnl.IFLA_NET_NS_FD, u32(self.far_fd))])
        info = nest([(rtnl.VETH_INFO_PEER, rtnl.ifinfomsg() + peer)])
        kind = nest([(rtnl.IFLA_INFO_KIND, text("veth")), (rtnl.IFLA_INFO_DATA, info)])
        attrs = nest([(rtnl.IFLA_IFNAME, text("va")), (rtnl.IFLA_LINKINFO, kind)])
        flags = rtnl.NLM_F_CREATE | rtnl.NLM_F_EXCL
        self.sockets[0].request(rtnl.RTM_NEWLINK, flags, rtnl.ifinfomsg() + attrs)

    def _http(self) -> None:
        status, body = self.daemon.request("POST", "/v1/pairs", self.body)
        assert status == 201, body


def _run(commands: list[list[str]]) -> None:
    for argv in commands:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def measure(setting: Setting) -> Found:
    """Measure every way at every place, by turns."""
    found: Found = {}
    with labs(setting, "auto") as sides, contextlib.ExitStack() as stack:
        lab = sides["auto"]
        assert isinstance(lab.backend, Vethd)
        home = lab.backend.home
        stack.enter_context(inside(home))
        a, b = lab.netns("a"), lab.netns("b")
        places = (
            Place("both ends in the daemon's namespace", None, None),
            Place("one end elsewhere", None, b),
            Place("both ends elsewhere", a, b),
        )
        for place in places:
            with contextlib.ExitStack() as sockets:
                maker = Maker(place, lab.backend.daemon, home, sockets)
                found[place.name] = in_turn(QUICK_ROUNDS if setting.quick else ROUNDS, maker.ways())
    return found


def tables(found: Found) -> list[Table]:
    """Return the medians in milliseconds, and how many times `ip link add` that is."""
    ways = list(dict.fromkeys(way for times in found.values() for way in times))
    head = ["ms", *(text for place in found for text in (place, "p99", f"times {BASE}"))]
    rows: list[list[Cell]] = []
    for way in ways:
        row: list[Cell] = [way]
        for times in found.values():
            taken = times.get(way, [])
            row += [median(taken) * MS, p99(taken) * MS, median(taken) / median(times[BASE])]
        rows.append(row)
    return [Table("creation", head, rows)]


EXTRA = Extra("creation", ("creation",), measure, tables)
