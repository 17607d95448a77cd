"""Every system call of a request fails in turn, in the real daemon: what is refused leaves the machine as it was.

    home [va] ===== [vb] b     one end is made in place, the other is moved; c is where things go
                          c

An answer is "done", and then all of it is so, or a refusal, and then nothing has changed: links in every namespace, the
daemon's descriptors and threads, and the namespaces that these stand in. The same request then succeeds.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.lib.fd_store import FdStore
from tests.lib.footing import Footing
from tests.lib.injector import Hit, Injection, Injector, injected
from tests.lib.lab import End, Lab
from tests.lib.netns import Netns
from tests.lib.site import Site
from tests.lib.site import site as make_site
from tests.lib.wait import wait_until

TURNS = range(int(os.environ.get("INJECTION_TURNS", "1")))  # each takes another errno at every place
FEW = 10  # calls failed would be no proof
STEP = 8  # of the longer requests, a turn fails every eighth call
ALIKE = ("name", "netns", "mtu", "address", "txqueuelen", "group", "altname", "up", "carrier", "gso_max_size")


@dataclass
class Stage:
    """A daemon under a supervisor, and namespaces."""

    site: Site
    lab: Lab
    injector: Injector
    store: FdStore
    b: Netns
    c: Netns

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self.site.daemon.request(method, path, msgspec.json.encode(body) if body is not None else None)

    def spec(self) -> dict[str, Any]:
        far = {"name": "vb", "netns": self.b.name, "address": "02:00:00:00:00:0b", "altname": "far"}
        return {"name": "va", "mtu": 1400, "alias": "mine", "up": True, "peer": far}

    def make(self) -> str:
        """Make the pair, up, with nothing failing."""
        path = f"/v1/pairs/{self.site.post(self.spec())['id']}"
        assert self.ask("PATCH", path, {"peer": {"up": True}})[0] == 200
        self.wait_carrier(self.b)
        return path

    def wait_carrier(self, far: Netns) -> None:
        End(self.site.home, "va").wait_carrier()
        End(far, "vb").wait_carrier()

    def footing(self) -> Footing:
        self.injector.settle()
        return Footing.of(self.site.daemon, self.places)

    @property
    def places(self) -> list[Netns]:
        return [self.site.home, self.b, self.c]

    def assert_kept(self, before: Footing, what: object) -> None:
        before.assert_kept(self.site.daemon, self.places, str(what))


@pytest.fixture
def stage(root: None, tmp_path: Path) -> Iterator[Stage]:  # noqa: ARG001 - the check that we may
    with make_site(tmp_path) as (site, lab), injected(site, tmp_path) as (injector, store):
        it = Stage(site, lab, injector, store, lab.netns("b"), lab.netns("c"))
        for _ in range(2):  # what is made once and kept is made now
            assert it.ask("DELETE", it.make())[0] == 204
        yield it
        log = site.daemon.log.read_text()
        assert not [line for line in log.splitlines() if "Traceback" in line or "task failed" in line], log[-4000:]


def refused(answer: tuple[int, Any], hit: Injection) -> bool:
    """Return whether a request was refused; then it must have been in words."""
    status, body = answer
    if status < 400:
        return False
    assert "internal error in vethd" not in body["message"], (hit, body)
    assert body["errno"] in errno.errorcode, (hit, body)
    return True


def tell(what: str, hits: list[Injection], refusals: int) -> set[str]:
    """Print what was failed, and what came of it; return the calls."""
    calls = Counter(hit.call for hit in hits)
    print(f"\n{what}: {len(hits)} calls failed, {refusals} times it was refused: {dict(calls)}")
    return set(calls)


@pytest.mark.heavy
@pytest.mark.parametrize("turn", TURNS)
def test_newlink(stage: Stage, turn: int) -> None:
    before = stage.footing()
    kept = stage.store.names()
    answers: list[tuple[int, Any]] = []
    hits: list[Injection] = []
    refusals = 0

    def work() -> None:
        answers.append(stage.ask("POST", "/v1/pairs", stage.spec()))

    for hit in stage.injector.each(work, turn):
        if hit and refused(answers[-1], hit):
            stage.assert_kept(before, hit)
            answers.append(stage.ask("POST", "/v1/pairs", stage.spec()))
            assert stage.ask("DELETE", f"/v1/pairs/{answers[-1][1]['id']}")[0] == 204, hit
            refusals += 1
        else:
            whole(stage, answers[-1], hit)
        stage.assert_kept(before, hit)
        assert stage.store.names() == kept, hit
        hits += [hit] if hit else []
    called = tell("newlink", hits, refusals)
    assert {"setns", "openat", "socket", "sendto", "recvfrom", "ioctl(0x400454ca)", "bpf", "mmap"} <= called
    assert refusals > len(hits) // 4, "they were not those of the birth"


def whole(stage: Stage, answer: tuple[int, Any], hit: Hit) -> None:
    """See that a pair that was made lacks nothing, and delete it."""
    status, body = answer
    assert status == 201, (hit, body)
    pair = body["id"]
    assert stage.ask("PATCH", f"/v1/pairs/{pair}", {"peer": {"up": True}})[0] == 200, hit
    stage.wait_carrier(stage.b)
    near, far = End(stage.site.home, "va"), End(stage.b, "vb")
    assert (near.link.mtu, near.link.alias, near.link.qdisc) == (1400, "mine", "noqueue"), hit
    assert (far.link.address, far.link.qdisc) == ("02:00:00:00:00:0b", "noqueue"), hit
    for name, netns in (("va", ""), ("vb", stage.b.name)):
        assert stage.ask("GET", stage.site.daemon.link_path(name, netns))[0] == 200, hit
    assert stage.ask("DELETE", f"/v1/pairs/{pair}")[0] == 204, hit


@pytest.mark.heavy
@pytest.mark.parametrize("turn", TURNS)
def test_dellink(stage: Stage, turn: int) -> None:
    """It cannot be refused: whatever fails, both devices are gone, and nobody keeps them."""
    before = stage.footing()
    kept = stage.store.names()
    paths = [stage.make()]
    hits: list[Injection] = []

    def work() -> None:
        status, body = stage.ask("DELETE", paths[-1])
        assert status == 204, body

    for hit in stage.injector.each(work, turn, apart=False):  # whichever thread buries
        stage.assert_kept(before, hit)
        assert stage.store.names() == kept, hit
        paths.append(stage.make())
        hits += [hit] if hit else []
    assert stage.ask("DELETE", paths[-1])[0] == 204
    tell("dellink", hits, 0)
    assert len(hits) >= FEW


@pytest.mark.heavy
@pytest.mark.parametrize("turn", TURNS)
def test_changelink(stage: Stage, turn: int) -> None:
    """All of it or nothing, a move included."""
    path = stage.make()
    there = {"name": "vb", "netns": stage.c.name, "mtu": 1300, "up": True, "altname": "other"}
    change = {"name": "vx", "mtu": 1300, "txqueuelen": 77, "peer": there}
    back = {"name": "vb", "netns": stage.b.name, "mtu": 1500, "up": True, "altname": "far"}
    revert = {"name": "va", "mtu": 1400, "txqueuelen": 1000, "peer": back}
    answers: list[tuple[int, Any]] = []
    hits: list[Injection] = []
    refusals = 0

    def state() -> list[dict[str, Any]]:
        return [{key: link.get(key) for key in ALIKE} for link in stage.ask("GET", path)[1]["links"]]

    def settle() -> None:
        wait_until(lambda: all(link["carrier"] for link in state()), what="the carrier")

    settle()
    before, footing = state(), stage.footing()
    assert stage.ask("PATCH", path, change)[0] == 200
    settle()
    after = state()
    assert stage.ask("PATCH", path, revert)[0] == 200
    settle()
    assert state() == before

    def work() -> None:
        answers.append(stage.ask("PATCH", path, change))

    for hit in stage.injector.each(work, turn, STEP):
        assert hit or answers[-1][0] == 200, answers[-1]
        wanted = before if hit and refused(answers[-1], hit) else after
        wait_until(lambda: state() == wanted, what=f"{hit}: {wanted}")  # noqa: B023 - not kept
        if wanted is before:
            stage.assert_kept(footing, hit)
            assert stage.ask("PATCH", path, change)[0] == 200, hit
            refusals += 1
        assert stage.ask("PATCH", path, revert)[0] == 200, hit
        settle()
        stage.assert_kept(footing, hit)
        hits += [hit] if hit else []
    assert stage.ask("DELETE", path)[0] == 204
    tell("changelink", hits, refusals)
    assert len(hits) >= FEW
    assert refusals > 0


@pytest.mark.heavy
@pytest.mark.parametrize("turn", TURNS)
def test_following_a_move(stage: Stage, turn: int) -> None:
    """Somebody moves an end while the daemon can do nothing right: it is found all the same, and works."""
    path = stage.make()
    footing = stage.footing()
    places = [stage.b, stage.c]

    def work() -> None:
        places[0].ip(f"link set vb netns {places[1].name}")
        places.reverse()
        place = places[0]
        wait_until(lambda: stage.ask("GET", path)[1]["links"][1]["netns"] == place.name, what="where it is")
        place.ip("link set vb up")
        stage.wait_carrier(place)
        End(place, "vb").wait(lambda link: link.qdisc == "noqueue", what="the qdisc")

    hits = [hit for hit in stage.injector.each(work, turn, STEP) if hit]
    if places[0] is not stage.b:
        work()
    stage.assert_kept(footing, "after all moves")
    assert stage.ask("DELETE", path)[0] == 204
    tell("following a move", hits, 0)
    assert len(hits) >= FEW
