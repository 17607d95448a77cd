"""A thousand pairs in one daemon: how long until all are up, what they cost while idle, how long until all are gone.

Beside it the same thousand as kernel veths, made by rtnetlink. Moves between namespaces are what costs most in the
second table: two a pair, an rcu_barrier each.
"""

from __future__ import annotations

import contextlib
import time
from typing import NamedTuple

from tests.benchmarks.common import Benchmark, Options, Result, benches, cpu_s, inside, main, rss_mib, span, table
from tests.lib import rtnl
from tests.lib.daemon import Daemon
from tests.lib.lab import Lab
from tests.lib.netns import Netns
from tests.lib.rtnl import Rtnl, nest, text
from tests.lib.wait import wait_until
from vethd.control.client import Client
from vethd.model.spec import LinkSpec, PairSpec

PAIRS, QUICK_PAIRS = 1000, 200
IDLE_S = 10.0
GROUP = 7
DEADLINE_S = 300.0


class Figures(NamedTuple):
    """What a number of pairs takes and costs; NaN where a side has no such thing."""

    all_up_s: float
    ms_a_pair: float
    idle_cpu_percent: float
    rss_mib: float
    descriptors: float
    deleted_s: float


def carriers(sockets: list[Rtnl]) -> int:
    """Count the links of ours that have carrier."""
    return sum(link.carrier for sock in sockets for link in sock.links() if link.group == GROUP)


def ends(sockets: list[Rtnl]) -> int:
    """Count the links of ours."""
    return sum(link.group == GROUP for sock in sockets for link in sock.links())


def spec(n: int, near: Netns, far: Netns) -> PairSpec:
    """Give the n-th pair; both ends in one namespace are in the daemon's own."""
    near_ns, far_ns = (None, None) if near is far else (near.name, far.name)
    peer = LinkSpec(name=f"vb{n}", netns=far_ns, group=GROUP, up=True)
    return PairSpec(name=f"va{n}", netns=near_ns, group=GROUP, up=True, peer=peer)


def of_vethd(daemon: Daemon, count: int, near: Netns, far: Netns, sockets: list[Rtnl]) -> Figures:
    """Measure a daemon."""
    client = Client(str(daemon.socket), timeout_s=DEADLINE_S)
    ids: list[str] = []

    def make() -> None:
        ids.extend(client.create(spec(n, near, far)).id for n in range(count))
        wait_until(lambda: carriers(sockets) == 2 * count, DEADLINE_S, "every carrier")

    all_up_s = span(make)
    settled(daemon.pid)
    before = cpu_s(daemon.pid)
    time.sleep(IDLE_S)  # the measurement itself: what it uses while nothing happens
    idle = (cpu_s(daemon.pid) - before) / IDLE_S * 100
    rss, descriptors = rss_mib(daemon.pid), daemon.fd_count()

    def delete() -> None:
        for each in ids:
            client.delete(each)
        wait_until(lambda: not ends(sockets), DEADLINE_S, "every end gone")

    return Figures(all_up_s, all_up_s / count * 1e3, idle, rss, descriptors, span(delete))


def of_kernel(lab: Lab, count: int, near: Netns, far: Netns, sockets: list[Rtnl]) -> Figures:
    """Measure the kernel's veth."""

    def make() -> None:
        for n in range(count):
            peer = LinkSpec(name=f"vb{n}", netns=str(far.path), group=GROUP)
            lab.backend.newlink(PairSpec(name=f"va{n}", netns=str(near.path), group=GROUP, peer=peer))
            up(sockets[0], f"va{n}")
            up(sockets[-1], f"vb{n}")
        wait_until(lambda: carriers(sockets) == 2 * count, DEADLINE_S, "every carrier")

    def delete() -> None:
        for n in range(count):
            sockets[0].request(rtnl.RTM_DELLINK, 0, rtnl.ifinfomsg() + nest([(rtnl.IFLA_IFNAME, text(f"va{n}"))]))
        wait_until(lambda: not ends(sockets), DEADLINE_S, "every end gone")

    nan = float("nan")
    all_up_s = span(make)
    return Figures(all_up_s, all_up_s / count * 1e3, nan, nan, nan, span(delete))


def up(sock: Rtnl, name: str) -> None:
    """Set a link up."""
    body = rtnl.ifinfomsg(0, rtnl.IFF_UP, rtnl.IFF_UP) + nest([(rtnl.IFLA_IFNAME, text(name))])
    sock.request(rtnl.RTM_NEWLINK, 0, body)


def settled(pid: int) -> None:
    """Wait until a process has done what creation left it to do: no CPU tick for half a second."""
    last, since = cpu_s(pid), time.monotonic()

    def still() -> bool:
        nonlocal last, since
        now = cpu_s(pid)
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 0.5

    wait_until(still, 60, "the daemon at rest")


def run(said: Options) -> Result:
    """Measure."""
    count = QUICK_PAIRS if said.quick else PAIRS
    tables, figures = {}, {}
    with benches() as (kernel, _, daemon), contextlib.ExitStack() as stack:
        home = kernel.backend.home
        stack.enter_context(inside(home))
        a, b = kernel.netns("a"), kernel.netns("b")
        for title, near, far in (("in the daemon's namespace", home, home), ("between two others", a, b)):
            with contextlib.ExitStack() as opened:
                sockets = [opened.enter_context(Rtnl(netns)) for netns in dict.fromkeys((near, far))]
                found = {
                    "kernel": of_kernel(kernel, count, near, far, sockets),
                    "vethd": of_vethd(daemon, count, near, far, sockets),
                }
            rows: list[list[str | float]] = [[name, *values] for name, values in found.items()]
            tables[f"{count} pairs {title}"] = table(["", *Figures._fields], rows)
            figures[title] = {name: values._asdict() for name, values in found.items()}
    return Result(tables, {"pairs": count, **figures})


BENCHMARK = Benchmark("scale", __doc__ or "", run, rounds=1, quick_rounds=1)

if __name__ == "__main__":
    main(BENCHMARK)
