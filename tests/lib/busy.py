"""Pairs at full load, what may happen to them, and neighbours that must not notice; test_full_load.py draws them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.lib.lab import End, Lab, Wire
from tests.lib.load import Loads
from tests.lib.netns import Netns
from tests.lib.site import Site
from tests.lib.wait import wait_until
from vethd.model.drops import Drop

FULL = 150_000  # datagrams a second each way: several times what an engine moves of several pairs on two cores
FLOWING = 100  # frames that pass either way before a pair meets its end
LOAD_S = 60.0  # the machine is full: what takes milliseconds otherwise takes turns

ENGINE_DROPS = [drop.label for drop in Drop]


class Busy:
    """A pair between two namespaces at full load, whose near end has a third one to go to."""

    def __init__(self, site: Site, lab: Lab, loads: Loads, mark: int = 1) -> None:
        self.site = site
        self.mark = mark
        self.a, self.b, self.c = (lab.netns(f"{tag}{mark}") for tag in "abc")
        self.loads = [loads.frames(netns.path, mark, side, FULL) for side, netns in enumerate((self.a, self.b, self.c))]
        self.wire = Wire(End(self.a, "x"), End(self.b, "y"))
        self.pair = ""

    def make(self) -> None:
        """Make the pair and bring it up."""
        spec = {"name": "x", "netns": self.a.name, "peer": {"name": "y", "netns": self.b.name}}
        self.wire = Wire(End(self.a, "x"), End(self.b, "y"))
        self.pair = self.site.post(spec)["id"]
        ends = b'{"up": true, "peer": {"up": true}}'
        assert self.site.daemon.request("PATCH", f"/v1/pairs/{self.pair}", ends)[0] == 200

    def stats(self) -> list[Any]:
        """Return what each end sent; what was read must all be accounted for."""
        return [one for one in stats(self.site) if one["pair"] == self.pair]

    def wait_flowing(self) -> None:
        """Wait until frames have passed either way; what was read must all be accounted for.

        Looked for in the devices: the API's counters wait for the RTNL lock, which others hold for long here.
        """
        with ExitStack() as stack:
            a, b, c = (stack.enter_context(netns.receiving()) for netns in (self.a, self.b, self.c))
            near, far = a() + c(), b()
            try:
                wait_until(lambda: a() + c() - near >= FLOWING and b() - far >= FLOWING, LOAD_S)
            except AssertionError as error:
                pair = [pair for pair in self.site.daemon.pairs() if pair["id"] == self.pair]
                words = f"{self.pair} does not flow: {self.stats()} {pair} {[end.get() for end in self.ends()]}"
                raise AssertionError(words) from error
        assert len(self.stats()) == 2

    def ends(self) -> list[End]:
        """Return the places where its devices may be."""
        return [End(self.a, "x"), End(self.c, "x"), End(self.b, "y")]

    def wait_gone(self) -> None:
        """Wait for the end of both devices and of the pair."""

        def gone() -> bool:
            there = [pair for pair in self.site.daemon.pairs() if pair["id"] == self.pair]
            return not there and not self.a.names() | self.b.names() | self.c.names()

        wait_until(gone, LOAD_S, "pair and devices gone")

    # What may happen to it, each time while frames pass

    def deleted_by_api(self) -> None:
        assert self.site.daemon.request("DELETE", f"/v1/pairs/{self.pair}")[0] == 204
        self.wait_gone()
        self.make()

    def deleted_by_ip(self) -> None:
        self.b.ip("link del y")
        self.wait_gone()
        self.make()

    def moved(self) -> None:
        """There and back, with frames from there too."""
        self._move(self.a, self.c)
        self.wait_flowing()
        self._move(self.c, self.a)

    @staticmethod
    def _move(source: Netns, target: Netns) -> None:
        source.ip(f"link set x netns {target.name}")
        target.ip("link set x up")

    def renamed(self) -> None:
        """And back."""
        self.a.ip("link set x name z")
        self.wait_flowing()
        self.a.ip("link set z name x")

    def meet_ends(self, times: int) -> None:
        """Make the pair where there is none, and let it meet its end so many times; after each all adds up."""
        if not self.pair:
            self.make()
            self.wait_flowing()
        for n in range(times):
            (self.deleted_by_api, self.moved, self.deleted_by_ip, self.renamed)[n % 4]()
            self.wait_flowing()

    def close(self) -> None:
        """End the traffic; none of it may have gone astray."""
        for load in self.loads:
            load.end()
        results = [load.stop() for load in self.loads]
        for result in results:
            result.assert_pure()
        assert min(result.received for result in results[:2]) > FLOWING


def stats(site: Site) -> list[Any]:
    """Return every end's counters, which must add up."""
    status, body = site.daemon.request("GET", "/v1/stats")
    assert status == 200, body
    for one in body:
        assert one["read"] == one["forwarded"] + sum(one["drops"][name] for name in ENGINE_DROPS) + one["in_flight"]
    return list(body)


@contextmanager
def neighbours(lab: Lab, loads: Loads) -> Iterator[None]:
    """Have two pairs that must not notice what happens to others."""
    p, q, s, t = (lab.netns(tag) for tag in "pqst")
    for near, far in ((p, q), (s, t)):
        wire = lab.pair(near, far)
        wire.up()
    wire.addresses()
    with (
        loads.frames(p.path, 11, 0, 1000) as here,
        loads.frames(q.path, 11, 1, 1000) as there,
        loads.stream(s.path, t.path, "10.9.0.2", 12) as tcp,
    ):
        yield
        here.end()
        there.end()
        stream, results = tcp.stop(), (here.stop(), there.stop())
    assert stream.wrong == 0
    assert stream.arrived > 1 << 20
    for mine, other in (results, results[::-1]):
        mine.assert_pure()
        assert mine.socket_drops == 0
        assert mine.sent > 0
        assert other.received == mine.sent, f"lost: {mine} {other}"


class Footprint:
    """What a process may leave behind by and by."""

    def __init__(self, pid: int) -> None:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        self.threads, self.rss_kb = int(status["Threads"]), int(status["VmRSS"].split()[0])

    def __repr__(self) -> str:
        return f"{self.threads} threads, {self.rss_kb} KB"
