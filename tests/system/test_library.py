"""A pair in anyone's own program: open_pair() under both loops, whatever happens in its body."""

from __future__ import annotations

import asyncio
import errno
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from tests.kernel.lib import House
from tests.lib.lab import End, Wire
from tests.lib.sockets import ping
from tests.lib.wait import DEADLINE_S, wait_until
from tests.system.rootless import OVERSIZE
from vethd.model.api import LinkStats, PairChange
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs import open_pair
from vethd.pairs.library import OpenPair

REPO = Path(__file__).parents[2]
T = TypeVar("T")
Run = Callable[[Callable[[], Awaitable[T]]], T]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[None]:
    """Return what runs a coroutine function on a loop of that kind, with proof that it leaves no task and no thread."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(body: Callable[[], Awaitable[None]]) -> None:
        async def checked() -> None:
            complaints: list[object] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            await body()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert complaints == []

        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(checked())

    return runner


def spec(a: End, b: End, *, up: bool = True) -> PairSpec:
    peer = LinkSpec(name=b.name, netns=str(b.netns.path), up=up or None)
    return PairSpec(name=a.name, netns=str(a.netns.path), up=up or None, peer=peer)


def ends(house: House) -> Wire:
    return Wire(End(house.net(), "va"), End(house.net(), "vb"))


def proven(wire: Wire, net: str = "10.9.0") -> None:
    """Prove that the pair forwards; blocks, so for a thread beside the loop that forwards."""
    wire.wait_carrier()
    near, far = wire.addresses(net)
    ping(wire.a.netns, near, wire.b.netns, far)


async def settled(pair: OpenPair) -> tuple[LinkStats, LinkStats]:
    """Count once nothing is under way: the kernel's counters are read before the engine's, so it is looked at twice."""
    async with asyncio.timeout(DEADLINE_S):
        before, now = None, await pair.stats()
        while now != before or any(end.in_flight for end in now):
            before, now = now, await pair.stats()
    return now


def nothing(wire: Wire) -> bool:
    return wire.a.netns.names() == set() == wire.b.netns.names()


def test_pair_lives_as_long_as_its_body(run: Run[None], house: House) -> None:
    wire = ends(house)

    async def body() -> None:
        async with open_pair(spec(wire.a, wire.b)) as pair:
            assert (pair.near.name, pair.far.name) == ("va", "vb")
            assert pair.near.netns_inode == wire.a.netns.path.stat().st_ino
            await asyncio.to_thread(proven, wire)
            near, far = await settled(pair)
            assert (near.read, far.read) == (near.tx_packets, far.tx_packets)
            assert near.forwarded == far.rx_packets > 0
        assert nothing(wire)
        with pytest.raises(LookupError):
            assert pair.near
        with pytest.raises(LookupError):
            await pair.stats()

    run(body)


def test_nested_pairs(run: Run[None], house: House) -> None:
    """Two managers on one loop, in one pair of namespaces."""
    one = ends(house)
    two = Wire(End(one.a.netns, "vc"), End(one.b.netns, "vd"))

    async def body() -> None:
        async with open_pair(spec(one.a, one.b)):
            async with open_pair(spec(two.a, two.b)):
                await asyncio.to_thread(proven, one)
                await asyncio.to_thread(proven, two, "10.8.0")
            assert one.a.netns.names() == {"va"}
            with pytest.raises(VethError) as caught:
                async with open_pair(spec(one.a, two.b)):
                    pass
            assert caught.value.errno == errno.EEXIST
            assert one.b.netns.names() == {"vb"}
        assert nothing(one)

    run(body)


def test_exception_in_the_body(run: Run[None], house: House) -> None:
    wire = ends(house)

    async def body() -> None:
        with pytest.raises(ZeroDivisionError):
            async with open_pair(spec(wire.a, wire.b)):
                raise ZeroDivisionError
        assert nothing(wire)

    run(body)


@pytest.mark.parametrize("which", ["near", "far"])
def test_device_deleted_inside_the_body(run: Run[None], house: House, which: str) -> None:
    """The other end goes too, wait_gone() tells, and leaving the body is no error."""
    wire = ends(house)
    victim = wire.a if which == "near" else wire.b

    async def body() -> None:
        async with open_pair(spec(wire.a, wire.b)) as pair:
            gone = asyncio.create_task(pair.wait_gone())
            await asyncio.to_thread(victim.netns.ip, f"link del {victim.name}")
            async with asyncio.timeout(DEADLINE_S):
                await gone
            assert nothing(wire)
            with pytest.raises(LookupError):
                assert pair.far
            with pytest.raises(LookupError):
                await pair.stats()
            with pytest.raises(VethError) as caught:
                await pair.change(PairChange(mtu=1400))
            assert caught.value.errno == errno.ENODEV
            async with asyncio.timeout(DEADLINE_S):
                await pair.wait_gone()

    run(body)


def test_netns_dies_inside_the_body(run: Run[None], house: House) -> None:
    wire = ends(house)
    doomed = house.net()
    wire.b.netns = doomed

    async def body() -> None:
        async with open_pair(spec(wire.a, wire.b)) as pair:
            doomed.let_go()
            async with asyncio.timeout(DEADLINE_S):
                await pair.wait_gone()
            assert wire.a.netns.names() == set()

    run(body)


def test_cancelled_in_the_body(run: Run[None], house: House) -> None:
    wire = ends(house)

    async def body() -> None:
        inside = asyncio.Event()

        async def forever() -> None:
            async with open_pair(spec(wire.a, wire.b)):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(forever())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert nothing(wire)

    run(body)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 10, 30, 100])
def test_cancelled_on_the_way_in(run: Run[None], house: House, turns: int) -> None:
    """At whatever step of the creation: nothing is left, though a thread may be at it."""
    wire = ends(house)

    async def body() -> None:
        async def enter() -> None:
            async with open_pair(spec(wire.a, wire.b)):
                await asyncio.Event().wait()  # threads may have got there within few turns

        task = asyncio.create_task(enter())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert nothing(wire)

    run(body)


def test_change(run: Run[None], house: House) -> None:
    wire = ends(house)
    elsewhere = house.net()

    async def body() -> None:
        async with open_pair(spec(wire.a, wire.b, up=False)) as pair:
            assert not pair.near.up
            peer = LinkSpec(name="eth0", netns=f"fd:{elsewhere.fd}", up=True)
            await pair.change(PairChange(mtu=1400, up=True, peer=peer))
            wire.b.name, wire.b.netns = "eth0", elsewhere
            assert (pair.near.mtu, pair.far.name, pair.far.netns_inode) == (1400, "eth0", elsewhere.inode)
            await asyncio.to_thread(proven, wire)
        assert nothing(wire)

    run(body)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "a/b"}, errno.EINVAL),
        ({"netns": "no-such-netns"}, errno.ENOENT),
        ({"netns": "fd:999"}, errno.EBADF),
        ({"mtu": 67}, errno.EINVAL),
        ({"master": "no-bridge"}, errno.ENODEV),
    ],
)
def test_refusal(run: Run[None], house: House, change: dict[str, object], code: int) -> None:
    wire = ends(house)
    base = spec(wire.a, wire.b)
    fields = {key: getattr(base, key) for key in base.__struct_fields__}

    async def body() -> None:
        with pytest.raises(VethError) as caught:
            async with open_pair(PairSpec(**fields | change)):
                pass
        assert caught.value.errno == code
        assert nothing(wire)

    run(body)


def test_unknown_engine(run: Run[None]) -> None:
    async def body() -> None:
        with pytest.raises(ValueError, match="warp"):
            async with open_pair(PairSpec(name="va"), engine="warp"):
                pass

    run(body)


def test_rootless(root: None) -> None:  # noqa: ARG001 - it needs no root, but /dev/net/tun
    """No BPF in there: the engine refuses what is too long, and the sender counts it as sent."""
    argv = ["unshare", "-Urn", sys.executable, "-m", "tests.system.rootless"]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert (report["filtered"], report["left"], report["uid"]) == (False, [], 0)
    assert report["drops"] == {"oversize": OVERSIZE}
    assert report["tx_dropped"] == 0
    assert report["read"] == report["tx_packets"] > OVERSIZE


def test_wait_until_gone_is_told_once(run: Run[None], house: House) -> None:
    """Many who wait are all told."""
    wire = ends(house)

    async def body() -> None:
        async with open_pair(spec(wire.a, wire.b)) as pair:
            waiting = [asyncio.create_task(pair.wait_gone()) for _ in range(10)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            await asyncio.to_thread(wire.a.netns.ip, "link del va")
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(*waiting)
        wait_until(lambda: nothing(wire))

    run(body)
