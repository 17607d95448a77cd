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

from tests.benchmarks.common import Benchmark, Options, Result, benches, in_turn, inside, main, median, p99, span, table
from tests.lib import rtnl
from tests.lib.daemon import Daemon
from tests.lib.netns import Netns
from tests.lib.rtnl import Rtnl, nest, text, u32
from tests.lib.wait import wait_until
from vethd.control.client import Client
from vethd.model.spec import LinkSpec, PairSpec

BASE = "ip link add"
MS = 1e3


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
        """Give a measurement for every way, in seconds; each leaves nothing."""
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


def run(said: Options) -> Result:
    """Measure."""
    tables, figures = {}, {}
    with benches() as (kernel, _, daemon), contextlib.ExitStack() as stack:
        home = kernel.backend.home
        stack.enter_context(inside(home))
        a, b = kernel.netns("a"), kernel.netns("b")
        places = (
            Place("both ends in the daemon's namespace", None, None),
            Place("one end in another namespace", None, b),
            Place("both ends in other namespaces", a, b),
        )
        for place in places:
            with contextlib.ExitStack() as sockets:
                found = in_turn(said.rounds, Maker(place, daemon, home, sockets).ways())
            base = median(found[BASE])
            rows: list[list[str | float]] = [
                [way, median(times) * MS, p99(times) * MS, median(times) / base] for way, times in found.items()
            ]
            tables[place.name] = table(["ms", "median", "p99", f"times {BASE}"], rows)
            figures[place.name] = found
    return Result(tables, figures)


BENCHMARK = Benchmark("creation", __doc__ or "", run, rounds=40, quick_rounds=8)

if __name__ == "__main__":
    main(BENCHMARK)
