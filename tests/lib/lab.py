"""The bench of a test: namespaces, pairs between them, ends to look at, and the clearing away with its proof."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.lib.backends import Backend
from tests.lib.leaks import PREFIX, Traces
from tests.lib.netns import Netns
from tests.lib.packet import PacketSocket
from tests.lib.rtnl import RTM_NEWLINK, RTMGRP_LINK, Link, Rtnl, Stats
from tests.lib.wait import DEADLINE_S, wait_until
from vethd.model.spec import LinkSpec, PairSpec

_numbers = itertools.count(1)


@dataclass
class End:
    """One end of a pair: a device by its name in a namespace. Renames and moves are told to it by the test."""

    netns: Netns
    name: str

    def get(self) -> Link | None:
        """Read the link; None where it is gone."""
        with Rtnl(self.netns) as sock:
            return sock.getlink(self.name)

    @property
    def link(self) -> Link:
        """The link as it is now. Raises AssertionError where it is gone."""
        link = self.get()
        assert link is not None, f"{self.name} is gone"
        return link

    @property
    def exists(self) -> bool:
        """Whether there is such a device."""
        return self.get() is not None

    def set(self, *what: str) -> None:
        """`ip link set dev NAME ...`, once for each of what."""
        self.netns.ip(*(f"link set dev {self.name} {words}" for words in what))

    def up(self) -> None:
        """Set it up. Raises OSError."""
        with Rtnl(self.netns) as sock:
            sock.set_up(self.name, True)

    def down(self) -> None:
        """Set it down. Raises OSError."""
        with Rtnl(self.netns) as sock:
            sock.set_up(self.name, False)

    def wait(self, condition: Callable[[Link], object], deadline_s: float = DEADLINE_S, what: str = "") -> Link:
        """Wait until condition holds for the link and return it; link events are reasons to look again."""
        with Rtnl(self.netns) as sock:

            def look() -> list[Link]:
                link = sock.getlink(self.name)
                return [link] if link is not None and condition(link) else []

            try:
                return wait_until(look, deadline_s)[0]
            except AssertionError as error:
                raise AssertionError(f"{self.name}: {what or condition}: {error}; now {self.get()}") from error

    def wait_carrier(self, on: bool = True) -> Link:
        """Wait for the carrier."""
        return self.wait(lambda link: link.carrier is on, what=f"carrier {on}")

    def wait_stats(self, stats: Stats, since: Stats | None = None) -> None:
        """Wait until it has counted stats, since then: a TAP delivers a frame first, and counts it after."""
        begin = Stats() if since is None else since
        self.wait(lambda link: link.stats - begin == stats, what=f"{stats} since {begin}")

    def wait_gone(self, deadline_s: float = 2.0) -> None:
        """Wait for its end."""
        wait_until(lambda: not self.exists, deadline_s, f"{self.name} gone")

    def listen(self) -> Rtnl:
        """Open a socket that hears the link events of this end's namespace; the caller closes it."""
        return Rtnl(self.netns, RTMGRP_LINK)

    def wait_event(self, events: Rtnl, condition: Callable[[Link], object]) -> Link:
        """Wait for a RTM_NEWLINK of this end for which condition holds."""

        def heard() -> list[Link]:
            new = [link for kind, link in events.events() if kind == RTM_NEWLINK and link.name == self.name]
            return [link for link in new if condition(link)]

        return wait_until(heard, DEADLINE_S, f"an event of {self.name}", wake=events.sock.fileno())[0]

    def packet(self, *, vnet: bool = False) -> PacketSocket:
        """Open a raw socket on it; the caller closes it."""
        return PacketSocket(self.netns, self.name, vnet=vnet)

    def address(self, cidr: str) -> None:
        """Give it an address, "10.0.0.1/24"; IPv6 without duplicate address detection. Raises OSError."""
        with Rtnl(self.netns) as sock:
            sock.add_address(self.name, cidr)


@dataclass
class Wire:
    """A pair and its two ends, near one first."""

    a: End
    b: End

    def up(self) -> None:
        """Set both up and wait for both carriers."""
        self.a.up()
        self.b.up()
        self.wait_carrier()

    def wait_carrier(self, on: bool = True) -> None:
        """Wait for both carriers."""
        self.a.wait_carrier(on)
        self.b.wait_carrier(on)

    def wait_balanced(self) -> None:
        """Wait until each end has counted as received what the other one sent; for frames that do not coalesce."""

        def balanced() -> bool:
            near, far = self.a.link.stats, self.b.link.stats
            there = (near.tx_packets, near.tx_bytes) == (far.rx_packets, far.rx_bytes)
            return there and (far.tx_packets, far.tx_bytes) == (near.rx_packets, near.rx_bytes)

        wait_until(balanced, what="each end received what the other one sent")

    def addresses(self, net: str = "10.9.0", near: int = 1, far: int = 2) -> tuple[str, str]:
        """Return both ends an address of one /24 and return them."""
        self.a.address(f"{net}.{near}/24")
        self.b.address(f"{net}.{far}/24")
        return f"{net}.{near}", f"{net}.{far}"


class Lab:
    """Namespaces and pairs of one test. What it made, it removes; then it proves that nothing is left."""

    def __init__(self, backend: Backend) -> None:
        """Prepare an empty bench."""
        self.backend = backend
        self.netnses: list[Netns] = []

    def netns(self, tag: str = "n", *, ipv6: bool = False) -> Netns:
        """Make a namespace with a unique name."""
        netns = Netns.create(f"{PREFIX}{next(_numbers)}{tag}", ipv6=ipv6)
        self.netnses.append(netns)
        return netns

    def spec(
        self, near: Netns, far: Netns, a: LinkSpec | None = None, b: LinkSpec | None = None, **own: Any
    ) -> PairSpec:
        """Return a spec of a pair between two namespaces, va and vb by default; own are the pair's own attributes."""
        said, peer = a or LinkSpec(), b or LinkSpec()
        name = "vb" if peer.name is None else peer.name
        peer = msgspec.structs.replace(peer, name=name, netns=far.name)
        attributes = {key: getattr(said, key) for key in LinkSpec.__struct_fields__}
        attributes |= {"name": "va" if said.name is None else said.name, "netns": near.name}
        return PairSpec(**attributes | own, peer=peer)

    def pair(self, near: Netns, far: Netns, a: LinkSpec | None = None, b: LinkSpec | None = None, **own: Any) -> Wire:
        """Make the pair that spec() gives."""
        spec = self.spec(near, far, a, b, **own)
        self.backend.newlink(spec)
        assert spec.name is not None
        assert spec.peer is not None
        assert spec.peer.name is not None
        return Wire(End(near, spec.name), End(far, spec.peer.name))

    def wire(self, near: Netns, far: Netns) -> Wire:
        """Refer to a pair va, vb that the test made itself."""
        return Wire(End(near, "va"), End(far, "vb"))

    def clear(self) -> None:
        """Delete the namespaces and wait until nothing is left of the pairs. Raises AssertionError."""
        for netns in self.netnses:
            if netns.exists:
                netns.delete()
        left: list[str] = []

        def clean() -> bool:
            left[:] = self.backend.leftovers()
            return not left

        try:
            wait_until(clean)
        except AssertionError as error:
            raise AssertionError(f"left behind: {left}") from error


@contextmanager
def lab(backend: Backend) -> Iterator[Lab]:
    """Yield a bench and clear it away, with proof, whatever the test did."""
    before = Traces.now(backend.home)
    bench = Lab(backend)
    with ExitStack() as stack:
        stack.callback(before.assert_nothing_left, backend.home)
        stack.callback(bench.clear)
        yield bench
