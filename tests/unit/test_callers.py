"""Who is an administrator, and how much room there is for the others."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from vethd.doors.callers import (
    CONNECTIONS,
    OTHERS_CONNECTIONS,
    OTHERS_QUOTA,
    Caller,
    Policy,
    Room,
    cost,
)
from vethd.kernel.owner import NOBODY, Peer
from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec, PairSpec

ONE = PairSpec(name="va")
ALICE, BOB = Caller(1000, admin=False), Caller(1001, admin=False)


@pytest.mark.parametrize(
    ("uid", "gids", "admin"),
    [(0, {5}, True), (os.geteuid(), {5}, True), (1000, {5}, False), (1000, {5, 42}, True), (NOBODY, {5}, False)],
)
def test_administrators(uid: int, gids: set[int], admin: bool) -> None:
    caller = Policy(42).caller(Peer(uid, frozenset(gids)))
    assert caller == (uid, admin)
    assert caller.owner == (0 if admin else uid)


def test_no_group_is_nobodys() -> None:
    assert not Policy(None).caller(Peer(1000, frozenset({0, 42}))).admin


def test_quota_counts_ones_own() -> None:
    policy = Policy(quota=3)
    policy.check_quota(ALICE, ONE, [(1000, ONE)] * 2 + [(1001, ONE)] * 9 + [(0, ONE)] * 99)
    with pytest.raises(VethError, match=r"uid 1000 may have 3 pairs .* and has 3") as caught:
        policy.check_quota(ALICE, ONE, [(1000, ONE)] * 3)
    assert caught.value.errno == errno.EDQUOT
    with pytest.raises(VethError, match="may have 3 pairs"):
        policy.check_quota(ALICE, PairSpec(peer=LinkSpec(queues=4)), [])
    policy.check_quota(Caller(0, admin=True), ONE, [(0, ONE)] * 5000)
    with pytest.raises(VethError, match="may have 0 pairs"):
        Policy(quota=0).check_quota(ALICE, ONE, [])


def test_quota_of_all_others_together() -> None:
    """Who has a range of uids has no more than that."""
    pairs = [(2000 + number, ONE) for number in range(OTHERS_QUOTA - 1)]
    Policy().check_quota(ALICE, ONE, [*pairs, *[(0, ONE)] * 50])
    with pytest.raises(VethError, match="together"):
        Policy().check_quota(ALICE, ONE, [*pairs, (2000, ONE)])


def test_a_pair_counts_as_its_queues() -> None:
    pairs = (ONE, PairSpec(queues=3), PairSpec(queues=2, peer=LinkSpec()), PairSpec(peer=LinkSpec(queues=5)))
    assert [cost(pair) for pair in pairs] == [1, 3, 2, 5]
    assert cost(PairSpec(latency_queue=True, peer=LinkSpec())) == 2


def test_room_for_connections() -> None:
    room = Room()
    assert all(room.enter(ALICE) for _ in range(CONNECTIONS))
    assert not room.enter(ALICE)
    assert room.enter(BOB)
    room.leave(ALICE)
    assert room.enter(ALICE)
    others = [Caller(5000 + number, admin=False) for number in range(OTHERS_CONNECTIONS - CONNECTIONS - 1)]
    assert all(room.enter(other) for other in others)
    assert not room.enter(Caller(1, admin=False))
    assert all(room.enter(Caller(0, admin=True)) for _ in range(1000))
    for caller in (*[ALICE] * CONNECTIONS, BOB, *others):
        room.leave(caller)
    assert not room._connections


def test_one_request_at_a_time() -> None:
    """Of one user; another's, and an administrator's, wait for none of his."""

    async def turns() -> None:
        room = Room()
        async with room.turn(ALICE):
            second = asyncio.create_task(_turn(room, ALICE))
            async with room.turn(BOB), room.turn(Caller(0, admin=True)), room.turn(Caller(0, admin=True)):
                pass
            await asyncio.sleep(0)
            assert not second.done()
        await second
        assert not room._turns

    asyncio.run(turns())


async def _turn(room: Room, caller: Caller) -> None:
    async with room.turn(caller):
        pass
