"""What others do at the worst moment: they act on an event the instant they hear it, or again before the last is done.

The kernel does everything under one lock; whoever stands in for it must come to the same end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lib.lab import End, Lab, Wire
from tests.lib.sockets import ping
from tests.lib.wait import DEADLINE_S, wait_until
from vethd.model.spec import LinkSpec

ROUNDS = 20


@contextmanager
def eager_manager(end: End) -> Iterator[None]:
    """Set a link up the instant that an event tells of it, once, as a network manager does."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with end.listen() as events:
                ready.set()
                end.wait_event(events, lambda _: True)
                end.up()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's thread
            errors.append(error)

    ready = threading.Event()
    thread = threading.Thread(target=work, name=f"manager of {end.name}")
    thread.start()
    assert ready.wait(DEADLINE_S)
    yield
    thread.join()
    if errors:
        raise errors[0]


def wait_changes(end: End, count: int) -> None:
    """Wait until the carrier has changed so often: a carrier that is still on tells nothing."""
    end.wait(lambda link: link.carrier_changes == count, what=f"{count} carrier changes")


@pytest.mark.parametrize("which", ["near", "peer"])
def test_up_as_soon_as_it_appears(lab: Lab, which: str) -> None:
    """An end that a manager sets up at its first event, while its maker may still be at work."""
    a, b = lab.netns("a"), lab.netns("b")
    for _ in range(ROUNDS):
        wire = Wire(End(a, "va"), End(b, "vb"))
        eager, other = (wire.a, wire.b) if which == "near" else (wire.b, wire.a)
        with eager_manager(eager):
            lab.pair(a, b)
        other.up()
        wire.wait_carrier()
        lab.backend.dellink("va", a.name)
        wait_until(lambda: not a.names() | b.names(), what="both gone")


@pytest.mark.parametrize("which", ["near", "far"])
def test_up_at_once_after_a_move(lab: Lab, live: Wire, which: str) -> None:
    """A container's runtime moves an end and sets it up in one breath."""
    moving, other = (live.a, live.b) if which == "near" else (live.b, live.a)
    places = [moving.netns, lab.netns("c")]
    for n in range(1, ROUNDS + 1):
        moving.set(f"netns {places[n % 2].name}")
        moving.netns = places[n % 2]
        moving.up()
        wait_changes(other, 2 + 2 * n)  # birth and first up; lost by each move, and back again
        live.wait_carrier()


def test_moves_in_a_row(lab: Lab, live: Wire) -> None:
    """Moved on before anybody can have followed, and up at the last place."""
    places = [lab.netns(tag) for tag in "cdefgh"]
    for place in places:
        live.b.set(f"netns {place.name}")
        live.b.netns = place
    live.b.up()
    wait_changes(live.a, 2 + 2)
    live.wait_carrier()
    near, far = live.addresses()
    ping(live.a.netns, near, live.b.netns, far)


def test_move_rename_and_mtu_in_a_row(lab: Lab, live: Wire) -> None:
    """All of it holds at the new place: carrier, limit, both directions."""
    live.a.set("mtu 3000")
    for n in range(ROUNDS):
        place = lab.netns(f"p{n}")
        live.b.set(f"netns {place.name} name e{n}")
        live.b = End(place, f"e{n}")
        live.b.set(f"mtu {1400 + n}", "mtu 3000", "up")
        wait_changes(live.a, 2 + 2 * (n + 1))
    live.wait_carrier()
    near, far = live.addresses()
    ping(live.a.netns, near, live.b.netns, far, data=bytes(2900))


def test_deleted_at_once_after_changes(lab: Lab) -> None:
    """Renamed, moved, set up: whoever is still busy with the last change finds the device gone."""
    a, b, c = lab.netns("a"), lab.netns("b"), lab.netns("c")
    for n in range(ROUNDS):
        wire = lab.pair(a, b)
        wire.a.set("up", "name vx")
        wire.b.set("up", "name vy")
        b.ip(f"link set vy netns {c.name}")
        if n % 2:
            c.ip("link del vy")
        else:
            a.ip("link del vx")
        wait_until(lambda: not a.names() | b.names() | c.names(), what="both gone")


def test_netns_deleted_at_once_after_a_move(lab: Lab) -> None:
    a, b = lab.netns("a"), lab.netns("b")
    for n in range(5):
        wire = lab.pair(a, b)
        doomed = lab.netns(f"d{n}")
        wire.b.set(f"netns {doomed.name}")
        doomed.delete()
        wait_until(lambda: not a.names() | b.names(), what="both gone")


def test_same_name_by_two_at_once(lab: Lab) -> None:
    """Of several who ask for one name, one gets it; the others leave nothing."""
    a = lab.netns("a")
    others = [lab.netns(f"b{n}") for n in range(4)]
    made: list[str] = []

    def ask(n: int) -> None:
        try:
            lab.pair(a, others[n], LinkSpec(name="va"))
            made.append(others[n].name)
        except Exception as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    failures: list[Exception] = []
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [getattr(error, "code", error) for error in failures] == ["EEXIST"] * 3
    assert a.names() == {"va"}
    assert [other.name for other in others if other.names()] == made
