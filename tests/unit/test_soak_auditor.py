"""The soak's auditor sees what is planted: each fault by itself, and nothing where there is none."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from tests.lib.rtnl import IFF_LOWER_UP, IFF_UP, Link
from tests.soak import windows as windows_module
from tests.soak.auditor import Auditor, flow_faults, tally_faults
from tests.soak.books import BETWEEN, COUNTED, ENGINE_DROPS, GROWING, KERNEL_DROPS, Books, Reading
from tests.soak.growth import Growth
from tests.soak.process import BUSY_FDS, IDLE_FDS, THREADS_MAX, TUN, Process, Weigher, link_faults
from tests.soak.report import Report
from tests.soak.stage import ACTIONS_KEPT, Over, Stage, Wrong
from tests.soak.traffic import Flows, FlowTotals
from tests.soak.windows import BATCH, KEPT, UNDER_WAY_NS, FlowEvent, Windows
from tests.soak.world import Cut, Pair, Room, World

S = 1_000_000_000


class Clock:
    """A time of one's own."""

    def __init__(self) -> None:
        self.now = 1000 * S

    def monotonic_ns(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(windows_module, "time", clock)
    return clock


def lost(from_ns: int, to_ns: int | None = None, frames: int = 2, mark: int = 1, what: str = "lost") -> FlowEvent:
    return FlowEvent(what, mark, 0, 500, frames, from_ns, from_ns if to_ns is None else to_ns)


class TestWindows:
    """A window from 1000 s to 1002 s; frames may have been under way for a second."""

    @pytest.fixture
    def windows(self, clock: Clock) -> Windows:
        windows = Windows()
        with windows.open(1, "end down"):
            clock.now += 2 * S
        clock.now += 10 * S
        return windows

    @pytest.mark.parametrize("span", [(1000, 1002), (999.1, 1001), (1001, 1001), (1002, 1000.5)])
    def test_excuses_what_is_inside(self, windows: Windows, span: tuple[float, float]) -> None:
        assert windows.judge(lost(int(span[0] * S), int(span[1] * S))) == ""
        assert windows.costs["end down"] == 2

    @pytest.mark.parametrize("span", [(998, 998), (998, 1001), (1001, 1003), (1003, 1003), (998, 1003)])
    def test_sees_what_is_not(self, windows: Windows, span: tuple[float, float]) -> None:
        assert "lost: 2 frames from number 500 of pair 1" in windows.judge(lost(int(span[0] * S), int(span[1] * S)))

    def test_is_one_pairs(self, windows: Windows) -> None:
        assert windows.judge(lost(1001 * S, mark=2))

    @pytest.mark.parametrize("what", ["doubled", "foreign", "corrupt", "news"])
    def test_excuses_losses_alone(self, windows: Windows, what: str) -> None:
        assert windows.judge(lost(1001 * S, what=what))

    def test_lets_a_moved_pairs_frame_be_late(self, windows: Windows) -> None:
        assert windows.judge(lost(1001 * S, what="late")) == ""
        assert windows.judge(lost(1004 * S, what="late"))

    def test_two_windows_with_a_hole_between(self, windows: Windows, clock: Clock) -> None:
        clock.now = 1004 * S + 1
        with windows.open(1, "again"):
            clock.now += S
        assert windows.judge(lost(1001 * S, 1004 * S))

    def test_two_windows_that_meet(self, windows: Windows, clock: Clock) -> None:
        clock.now = 1003 * S
        with windows.open(1, "again"):
            clock.now += S
        assert windows.judge(lost(1001 * S, 1004 * S)) == ""

    def test_open_ones_count(self, clock: Clock) -> None:
        windows = Windows()
        with windows.open(1, "end down"):
            clock.now += S
            assert windows.touched(1, clock.now)
            assert not windows.touched(2, 0)
            assert windows.judge(lost(clock.now)) == ""
        assert windows.touched(1, clock.now)
        assert not windows.touched(1, clock.now + 1)

    def test_a_restart_excuses_nothing(self, clock: Clock) -> None:
        windows = Windows()
        with windows.away("restart"):
            clock.now += S
            assert windows.is_away(clock.now)
            assert windows.judge(lost(clock.now, frames=1))
        assert not windows.killed(0)

    def test_what_waited_for_the_daemon_was_under_way(self, clock: Clock) -> None:
        windows = Windows()
        with windows.away("restart"):
            clock.now += 5 * S
            with windows.open(1, "end down"):
                clock.now += S
        assert windows.judge(lost(1000 * S)) == ""


def test_an_open_window_is_not_forgotten(clock: Clock) -> None:
    windows = Windows()
    with windows.open(1, "pairs that come and go"):
        for _ in range(KEPT + 1):
            with windows.open(2, "moved"):
                clock.now += S
        assert windows.judge(lost(clock.now - S)) == ""
        assert windows.judge(lost(clock.now - (KEPT + 2) * S, mark=2)) != "", (
            "the oldest of the closed ones is forgotten"
        )


class TestKills:
    @pytest.fixture
    def windows(self, clock: Clock) -> Windows:
        windows = Windows()
        with windows.away("kill"), windows.kill():
            clock.now += S
        clock.now += 5 * S
        return windows

    def test_a_batch_may_be_lost(self, windows: Windows) -> None:
        assert windows.killed(1001 * S)
        assert not windows.killed(1002 * S)
        assert windows.judge(lost(1000 * S, frames=BATCH)) == ""
        assert windows.costs["killed"] == BATCH

    def test_and_not_a_frame_more(self, windows: Windows) -> None:
        assert windows.judge(lost(1000 * S, frames=BATCH + 1))
        assert windows.judge(lost(1000 * S, frames=BATCH)) == ""
        assert windows.judge(lost(1000 * S, frames=1))
        assert windows.judge(lost(1000 * S, frames=BATCH, mark=2)) == ""

    def test_nor_at_another_time(self, windows: Windows) -> None:
        assert windows.judge(lost(1000 * S - UNDER_WAY_NS - 1))
        assert windows.judge(lost(1002 * S))

    def test_nor_late(self, windows: Windows) -> None:
        assert windows.judge(lost(1000 * S, what="late"))

    def test_two_kills_leave_one_gap(self, windows: Windows, clock: Clock) -> None:
        clock.now = 1001 * S + S // 2
        with windows.kill():
            clock.now += S
        assert windows.judge(lost(1000 * S, 1002 * S, frames=2 * BATCH + 1))
        assert windows.judge(lost(1000 * S, 1002 * S, frames=2 * BATCH)) == ""


def end(**more: Any) -> dict[str, Any]:
    """Return an end whose books are in order."""
    kernel = {"rx_packets": 90, "rx_bytes": 9000, "tx_packets": 100, "tx_bytes": 9999, "rx_dropped": 0, "tx_dropped": 7}
    drops = dict.fromkeys([*ENGINE_DROPS, *KERNEL_DROPS], 0) | {"peer_down": 4, "write_error": 1, "kernel_oversize": 7}
    return {
        "name": "va",
        "pair": "p1",
        "netns": "red",
        "ifindex": 2,
        **kernel,
        "carrier_changes": 2,
        "read": 100,
        "read_bytes": 9999,
        "forwarded": 92,
        "forwarded_bytes": 9900,
        "in_flight": 3,
        "drops": drops,
        "write_errors": {"EAGAIN": 1},
        **more,
    }


def reading(*ends: dict[str, Any], killed: bool = False, steady: frozenset[str] = frozenset({"p1"})) -> Reading:
    """Return a reading in which the kernel says the same."""
    kernel = {(one["netns"], one["ifindex"]): {name: one[name] for name in set(BETWEEN.values())} for one in ends}
    return Reading(ends, kernel, kernel, killed, steady)


class TestBooks:
    def test_in_order(self) -> None:
        books = Books()
        peer = end(name="vb", netns="blue")
        assert books.look(reading(end(), peer)) == []
        grown = end(tx_packets=110, read=110, forwarded=102)
        assert books.look(reading(grown, peer)) == []

    @pytest.mark.parametrize("name", ["read", "forwarded", "in_flight"])
    @pytest.mark.parametrize("by", [-1, 1])
    def test_a_frame_more_or_less(self, name: str, by: int) -> None:
        wrong = Books().look(reading(end(**{name: end()[name] + by})))
        assert any("is not forwarded" in words for words in wrong)

    @pytest.mark.parametrize("reason", [*ENGINE_DROPS, *KERNEL_DROPS])
    def test_a_drop_that_nobody_knows(self, reason: str) -> None:
        drops = end()["drops"]
        assert Books().look(reading(end(drops=drops | {reason: drops[reason] + 1})))

    def test_a_write_error_without_its_errno(self) -> None:
        assert Books().look(reading(end(write_errors={})))

    @pytest.mark.parametrize("name", BETWEEN)
    def test_what_the_kernel_does_not_say(self, name: str) -> None:
        known = reading(end())
        for by in (-1, 1):
            told = Reading([end(**{name: end()[name] + by})], known.before, known.after)
            assert any(f"{name} is" in words for words in Books().look(told))

    def test_what_moves_while_it_is_read(self) -> None:
        told = reading(end())
        after = {place: {name: count + 5 for name, count in counts.items()} for place, counts in told.after.items()}
        told.after = after
        assert Books().look(told) == []

    def test_another_device_with_the_same_index(self) -> None:
        told = reading(end())
        told.after = {place: dict.fromkeys(counts, 0) for place, counts in told.after.items()}
        assert Books().look(told) == []

    @pytest.mark.parametrize("name", [*GROWING, *COUNTED])
    @pytest.mark.parametrize("killed", [False, True])
    def test_a_counter_that_goes_back(self, name: str, killed: bool) -> None:
        books = Books()
        books.look(reading(end(**{name: end()[name] + 1})))
        assert any(f"{name} went back" in words for words in books.look(reading(end(), killed=killed)))

    def test_a_reason_that_goes_back(self) -> None:
        books = Books()
        more = end()["drops"] | {"stale": 1}
        books.look(reading(end(drops=more)))
        assert any("stale went back from 1 to 0" in words for words in books.look(reading(end())))

    def test_a_reason_may_go_back_over_a_kill(self) -> None:
        books = Books()
        more = end()["drops"] | {"stale": 1}
        books.look(reading(end(drops=more, read=101, tx_packets=101)))
        assert books.look(reading(end(read=101, tx_packets=101, forwarded=93), killed=True)) == []

    def test_a_carrier_that_nobody_touched(self) -> None:
        books = Books()
        books.look(reading(end()))
        assert any("carrier_changes went" in words for words in books.look(reading(end(carrier_changes=4))))
        assert books.look(reading(end(carrier_changes=6), steady=frozenset())) == []

    def test_a_pair_made_anew_counts_from_zero(self) -> None:
        books = Books()
        books.look(reading(end(read=200, tx_packets=200, forwarded=192)))
        told = reading(end())
        told.reborn = frozenset({"p1"})
        assert books.look(told) == []
        assert books.look(reading(end(read=99, tx_packets=99, forwarded=91)))

    def test_knows_both_ends_apart(self) -> None:
        books = Books()
        near, far = end(), end(name="vb", netns="blue", read=50, forwarded=42, tx_packets=50)
        assert books.look(reading(near, far)) == []
        assert books.look(reading(near, end(name="vb", netns="blue", read=49, forwarded=41, tx_packets=49)))


LIFE = (
    (13, 62396), (22, 63128), (44, 64560), (66, 64964), (89, 65332), (110, 66020), (137, 66072), (161, 66312),
    (183, 66312), (205, 66424), (227, 66396), (254, 66456), (276, 67136), (299, 67116), (322, 67128), (353, 67292),
    (375, 67264), (403, 67256), (423, 67216), (447, 67236), (471, 67260), (497, 67324), (521, 67284), (548, 67372),
    (572, 67372), (595, 67312), (621, 67432), (641, 67316), (666, 67408), (693, 67364), (717, 67332), (742, 67336),
    (770, 67340), (793, 67368), (821, 67424), (846, 67444), (871, 67352), (896, 67412), (919, 67468), (944, 67424),
)  # fmt: skip
"""Pairs made, and KB: a daemon that does not leak, in a soak on uring. It came to 3.4 MB of its buffers by and by."""


class Daemon:
    """A world with one declared pair, whose statistics are a list of answers; an exception is raised."""

    def __init__(self, windows: Windows, *answers: list[dict[str, Any]] | Exception) -> None:
        self.windows = windows
        self.answers = list(answers)
        self.made = 0

    def ask(self, _method: str, _path: str) -> tuple[int, list[dict[str, Any]]]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return 200, answer

    def listed(self) -> list[Pair]:
        return [Pair("red", "va", "blue", "vb", id="p1", mark=7, source="config")]

    def every_room(self) -> list[Room]:
        return []

    def pid(self) -> int:
        return 0


def test_a_look_goes_back_to_the_last_one_that_was_answered() -> None:
    """A pair is made anew, and the look after it is cut short by a restart: the next one forgives the new counters."""
    windows = Windows()
    world = Daemon(windows, [end()], Cut(), [end(carrier_changes=0)])
    flows = SimpleNamespace(totals=dict, events=[])
    books = Books()
    auditor = Auditor(cast("World", world), cast("Flows", flows), cast("Weigher", None), books)
    auditor.look()
    with windows.open(7, "declared namespace deleted"):
        pass
    auditor.look()
    auditor.look()
    assert world.answers == []


class TestGrowth:
    @staticmethod
    def grown(weigh: Callable[[int], float], most: int = 1000, step: int = 10) -> str:
        growth = Growth()
        for work in range(0, most, step):
            growth.add(work, int(weigh(work)))
        assert growth.span <= most - growth.warm_up
        return growth.verdict()

    @staticmethod
    def lived(leak_kb: float, after: int = 0) -> list[str]:
        """Give the verdict at each moment of a real life with a leak of so much a pair, which begins after some."""
        growth, told = Growth(), []
        for work, weight in LIFE:
            growth.add(work, int(weight + leak_kb * max(work - after, 0)))
            told.append(growth.verdict())
        return told

    def test_a_leak(self) -> None:
        assert "KB each" in self.grown(lambda work: 50_000 + 6 * work)

    def test_a_small_leak_takes_longer(self) -> None:
        assert self.grown(lambda work: 50_000 + work) == ""
        assert "1.0 KB each" in self.grown(lambda work: 50_000 + work, most=2400)
        assert "0.1 KB each" in self.grown(lambda work: 50_000 + work / 10, most=24_000, step=100)

    def test_a_leak_in_noise(self) -> None:
        dice = random.Random(1)
        assert self.grown(lambda work: 50_000 + 6 * work + dice.randrange(3000))

    def test_noise(self) -> None:
        for seed in range(100):
            dice = random.Random(seed)
            assert self.grown(lambda _, dice=dice: 50_000 + dice.randrange(2000)) == ""  # type: ignore[misc]

    def test_a_life_without_a_leak(self) -> None:
        assert not any(self.lived(0))

    def test_a_big_leak_is_found_as_soon_as_anything_can_be(self) -> None:
        told = self.lived(10.8)
        first = [work for work, _ in LIFE if work >= Growth().warm_up][Growth().least - 1]
        assert [bool(words) for words in told] == [work >= first for work, _ in LIFE]

    def test_a_small_leak_is_found_by_the_end_of_a_calm(self) -> None:
        assert not any(self.lived(2.5)[:20])
        assert "memory grew" in self.lived(2.5)[-1]

    def test_a_leak_behind_the_warm_up_alone(self) -> None:
        assert "memory grew" in self.lived(6, after=300)[-1]

    @pytest.mark.parametrize("at", [150, 350, 500, 650, 900])
    def test_one_jump(self, at: int) -> None:
        """As when a burst of frames touches all of an engine's buffers."""
        assert self.grown(lambda work: 50_000 if work < at else 58_500) == ""

    def test_one_outlier(self) -> None:
        assert self.grown(lambda work: 90_000 if work == 500 else 50_000) == ""

    def test_a_warm_up(self) -> None:
        assert self.grown(lambda work: 50_000 + 100 * min(work, 300)) == ""

    def test_a_warm_up_that_takes_its_time(self) -> None:
        def warming(work: int) -> float:
            return 72_000 - 12_000 * 0.98**work

        assert self.grown(warming, most=260, step=2) == ""
        assert self.grown(lambda work: warming(work) + 60 * work, most=260, step=2)

    def test_too_few_samples(self) -> None:
        assert self.grown(lambda work: 50_000 + 10_000 * work, most=240) == ""


class TestWeigher:
    def process(
        self, taps: int = 4, others: int = 20, threads: int = 13, rss_kb: int = 50_000, pid: int = 7
    ) -> Process:
        return Process(pid, (TUN,) * taps + ("socket:[1]",) * others, threads, rss_kb)

    def test_in_order(self) -> None:
        weigher = Weigher(own_fds=20)
        assert list(weigher.look(self.process(taps=400, others=20 + BUSY_FDS, threads=THREADS_MAX), 0)) == []
        assert list(weigher.idle(self.process(others=20 + IDLE_FDS), 4)) == []

    def test_descriptors_that_pile_up(self) -> None:
        found = list(Weigher(own_fds=20).look(self.process(others=21 + BUSY_FDS), 0))
        assert len(found) == 1
        assert "'socket': 69" in found[0]

    def test_a_thread_too_many(self) -> None:
        assert list(Weigher(own_fds=20).look(self.process(threads=THREADS_MAX + 1), 0)) == ["17 threads"]

    @pytest.mark.parametrize(("taps", "others"), [(3, 20), (5, 20), (4, 21 + IDLE_FDS)])
    def test_not_exact(self, taps: int, others: int) -> None:
        assert len(list(Weigher(own_fds=20).idle(self.process(taps, others), 4))) == 1

    def test_memory_of_one_life(self) -> None:
        weigher = Weigher(own_fds=20)
        found = [list(weigher.look(self.process(rss_kb=50_000 + 100 * work), work)) for work in range(0, 400, 10)]
        assert found[0] == []
        assert "memory grew" in found[-1][0]

    def test_each_life_begins_anew(self) -> None:
        weigher = Weigher(own_fds=20)
        for work, pid in zip(range(0, 2000, 10), itertools.cycle(range(50)), strict=False):
            assert list(weigher.look(self.process(rss_kb=50_000 + 100 * work, pid=pid), work)) == []


def flow(mark: int = 1, side: int = 0, **more: int) -> FlowTotals:
    none = dict.fromkeys(("refused", "lost", "late", "doubled", "foreign", "corrupt", "socket_drops", "heard_ns"), 0)
    return FlowTotals(mark=mark, side=side, **{**none, "sent": 1000, "heard": 1000, **more})


class TestTally:
    BOOKS: ClassVar = {"tx_packets": 1000, "read": 1000, "forwarded": 1000, "tx_dropped": 3}

    def wrong(self, kills: int = 0, refused: int = 3, heard: int = 1000, lost: int = 0, **books: int) -> list[str]:
        totals = {(1, 0): flow(refused=refused, heard=heard, lost=lost)}
        return tally_faults(totals, {(1, 0): self.BOOKS | books}, kills)

    def test_every_frame(self) -> None:
        assert self.wrong() == []
        assert self.wrong(kills=2, heard=900, lost=100) == []

    @pytest.mark.parametrize("name", BOOKS)
    @pytest.mark.parametrize("by", [-1, 1])
    def test_one_is_not_accounted_for(self, name: str, by: int) -> None:
        assert len(self.wrong(**{name: self.BOOKS[name] + by})) == 1

    def test_one_never_arrived(self) -> None:
        assert self.wrong(heard=999)

    def test_more_are_lost_than_kills_take(self) -> None:
        assert self.wrong(kills=1, heard=1000 - BATCH, lost=BATCH) == []
        assert self.wrong(kills=1, heard=999 - BATCH, lost=BATCH + 1)

    @pytest.mark.parametrize("what", ["doubled", "foreign", "corrupt", "socket_drops"])
    def test_what_never_may_be(self, what: str) -> None:
        totals = {(1, 0): flow(), (2, 1): flow(2, 1, **{what: 1})}
        assert flow_faults(totals) == [f"pair 2 side 1: 1 {what.replace('_', ' ')}"]


class TestLinks:
    LINK = Link(
        "va", 2, IFF_UP | IFF_LOWER_UP, "02:00:00:00:00:01", 1500, 1000, 0, "noqueue", "UP", True, 2, 1, 1, 0, 0, 0,
        "", (), "tun", 0, "eui64", 0, 0, 0,
    )  # fmt: skip
    TOLD: ClassVar = {
        "name": "va",
        "pair": "p1",
        "netns": "red",
        "ifindex": 2,
        "mtu": 1500,
        "ring": 1000,
        "up": True,
        "address": "02:00:00:00:00:01",
        "carrier": True,
        "peer_name": "vb",
    }

    def test_agree(self) -> None:
        assert list(link_faults(self.TOLD, self.LINK)) == []

    def test_gone(self) -> None:
        assert list(link_faults(self.TOLD, None)) == ["va of p1 is not in red"]

    @pytest.mark.parametrize(
        ("what", "now"),
        [("ifindex", 3), ("mtu", 1501), ("ring", 1), ("up", False), ("address", "x"), ("carrier", False)],
    )
    def test_differ(self, what: str, now: object) -> None:
        assert len(list(link_faults(self.TOLD | {what: now}, self.LINK))) == 1

    @pytest.mark.parametrize("change", [{"qdisc": "pfifo_fast"}, {"altnames": ("va@vb",)}])
    def test_what_the_daemon_must_see_to(self, change: dict[str, Any]) -> None:
        assert len(list(link_faults(self.TOLD, Link(**(vars(self.LINK) | change))))) == 1


class TestStage:
    def test_keeps_the_last_actions(self) -> None:
        stage = Stage()
        for number in range(ACTIONS_KEPT + 5):
            stage.did("made", f"p{number}")
        assert len(stage.actions) == ACTIONS_KEPT
        assert stage.actions[0].endswith("made p5")
        assert stage.counts["made"] == ACTIONS_KEPT + 5

    def test_the_first_failure_ends_it(self) -> None:
        stage = Stage()
        stage.fail("one")
        stage.fail("two")
        assert stage.wrong[0].endswith("one")
        with pytest.raises(Over):
            stage.pause(100)
        with pytest.raises(Over), stage.acting():
            pass

    def test_nobody_acts_at_a_standstill(self) -> None:
        stage, acted = Stage(), threading.Event()

        def act() -> None:
            with stage.acting():
                acted.set()

        actor = threading.Thread(target=act)
        with stage.standstill():
            actor.start()
            assert not acted.wait(0.05)
        assert acted.wait(20)
        actor.join()

    def test_what_does_not_come_is_wrong(self) -> None:
        with pytest.raises(Wrong, match=r"not within 0 s: a miracle; last seen: \[\]"):
            Stage().wait(list, "a miracle", 0.01)


def test_a_report_tells_the_seed_and_what_is_wrong() -> None:
    report = Report("native", 42, 30.0, rows=[("frames", [("sent", "5")])])
    assert "native, 30 s, seed 42: all adds up" in report.text()
    report.wrong = "two frames"
    assert "seed 42: FAILED two frames" in report.text()
