"""The benchmarks' arithmetic, on links whose capacity is known, and counters that do not add up."""

from __future__ import annotations

import math
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from tests.benchmarks import accounts, hosts, plots, targets
from tests.benchmarks.data import Entrant, Figure, Run, Sample
from tests.benchmarks.extras import EXTRAS
from tests.benchmarks.lossless import search
from tests.benchmarks.report import DOCS, MARK, blocks, write
from tests.benchmarks.tables import bound_table, cell, markdown
from tests.benchmarks.traffic import UdpResult
from tests.lib.daemon import Daemon
from tests.lib.lab import End, Wire
from tests.lib.machine import describe
from tests.lib.netns import Netns

SENDER = 500_000.0
NARROW = 1.04


def trial(rate: float, capacity: float, lost: int = 0) -> UdpResult:
    """Send for one second what a sender can, over a link that carries capacity and loses lost besides."""
    sent = min(rate or SENDER, SENDER)
    received = int(min(sent, capacity)) - lost
    return UdpResult(int(sent), 0, received, 0, 0, 0, 1.0, 1.0, 0.5)


@pytest.mark.parametrize("capacity", [1_000.0, 47_000.0, 120_000.0, 333_333.0, 499_000.0])
def test_the_search_finds_what_a_link_carries(capacity: float) -> None:
    best = search(lambda rate: trial(rate, capacity), NARROW).best
    assert best is not None
    assert capacity / NARROW**2 <= best.rate <= capacity


def test_a_link_that_is_faster_than_the_sender_takes_two_trials() -> None:
    calls = count()
    found = search(lambda rate: (next(calls), trial(rate, 2 * SENDER))[1], NARROW)
    assert found.best is not None
    assert found.best.rate == SENDER
    assert next(calls) == 2


def test_one_hiccup_in_three_trials_is_forgiven_and_steady_loss_is_not() -> None:
    calls = count()

    def hiccups(rate: float) -> UdpResult:
        return trial(rate, 200_000, lost=5_000 if next(calls) % 3 == 0 else 0)

    best = search(hiccups, NARROW).best
    assert best is not None
    assert best.rate > 200_000 / NARROW**3
    assert search(lambda rate: trial(rate, 200_000, lost=int((rate or SENDER) * 0.002) + 1), NARROW).best is None


def test_a_backlog_that_is_delivered_late_does_not_count_as_rate() -> None:
    late = UdpResult(1000, 0, 1000, 0, 0, 0, send_s=1.0, receive_s=2.0, cpu_s=0.0)
    assert late.loss == 0
    assert late.rate == 500


class StubDaemon:
    """Answers with the counters that it was given, one after the other, the last again and again."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        """Prepare the answers."""
        self.answers = list(answers)

    link_path = Daemon.link_path

    def request(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """Return the next answer."""
        assert (method, "/stats" in path) == ("GET", True)
        return 200, self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def stats(read: int, forwarded: int, in_flight: int, **drops: int) -> dict[str, Any]:
    return {"read": read, "forwarded": forwarded, "in_flight": in_flight, "drops": drops}


WIRE = Wire(End(Netns("a"), "va"), End(Netns("b"), "vb"))


def audit(*answers: dict[str, Any]) -> None:
    accounts.audit(cast("Daemon", StubDaemon(*answers)), WIRE)


def test_counters_that_add_up_pass_and_what_the_kernel_dropped_was_never_read() -> None:
    audit(stats(10, 7, 0, oversize=2, stale=1, kernel_queue_full=99))


def test_frames_in_flight_are_waited_for() -> None:
    audit(stats(10, 7, 3), stats(10, 10, 0))


@pytest.mark.parametrize("off", [stats(10, 9, 0), stats(10, 10, 1), stats(10, 9, 0, kernel_queue_full=1)])
def test_counters_that_do_not_add_up_fail(off: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="10 frames read"):
        audit(off)


def a_run(**samples: list[float]) -> Run:
    """Return a run of tcp1 alone, a round after the other."""
    run = Run(command="here", started="now", rounds=3, quick=False, load_before=0.5, machine=describe())
    run.figures = [Figure(key="tcp1", title="TCP")]
    for name, values in samples.items():
        run.entrants.append(Entrant(name=name, title=name))
        run.samples += [
            Sample(round=n, measure="tcp1", contestant=name, figures={"tcp1": value}) for n, value in enumerate(values)
        ]
    return run


def stage(pairs: int, costs: dict[str, float]) -> dict[str, Any]:
    """Return a stage of the scale benchmark."""
    busy = {"tcp1": [1.0, 2.0, 3.0], "udp64": [200.0], "rr": [20.0]}
    idle = {"idle_cpu_s": 0.001} if costs else {}
    return {"pairs": pairs, "added": pairs - 1, "added_s": 2.0 * (pairs > 1), **busy, **costs, **idle}


def test_a_ratio_is_of_neighbours_in_time() -> None:
    run = a_run(kernel=[10, 20, 40], native=[5, 20, 20])
    assert run.median("native", "tcp1") == 20
    assert run.ratio("native", "kernel", "tcp1") == 0.5
    assert math.isnan(run.ratio("socat", "kernel", "tcp1"))


def test_targets_tell_floor_aim_and_what_was_not_measured() -> None:
    def verdicts(native: float) -> list[object]:
        return [
            row[-1] for row in targets.rows(a_run(kernel=[10], native=[native], socat=[1])) if "TCP 1 flow" in str(row)
        ]

    assert [verdicts(rate)[0] for rate in (8.4, 8.5, 10)] == ["missed", "floor reached", "goal reached"]


def test_targets_depend_on_what_a_wakeup_costs() -> None:
    run = a_run(kernel=[10], native=[8])
    for rate, verdict in ((349, "missed"), (351, "floor reached")):
        run.samples.append(Sample(round=0, measure="udp64", contestant="kernel", figures={"udp64": rate}))
        assert targets.rows(run)[0][-1] == verdict
        run.samples.pop()


def test_the_bound_is_what_two_cpus_can_do() -> None:
    run = a_run(kernel=[10], native=[6])
    run.machine["cpus"] = 2
    run.samples[0].figures["tcp1_busy"] = 1.5
    run.samples[1].figures["tcp1_cpu"] = 0.5
    assert run.bound("native", "kernel", "tcp1") == 8
    assert (found := bound_table(run, "kernel"))
    assert found.rows == [["TCP", 8.0, 0.75]]


def test_the_native_engine_is_held_against_asyncio() -> None:
    run = a_run(kernel=[10], native=[9], asyncio=[10])
    run.figures.append(Figure(key="rr", title="round trip", more_is_better=False))
    run.samples[1].figures["rr"], run.samples[2].figures["rr"] = 10, 20
    assert targets.against_asyncio(run) == {"tcp1": 0.9, "rr": 2}


def test_a_run_is_kept_for_each_kind_of_host(tmp_path: Path) -> None:
    first, other, again = (a_run(kernel=[10], native=[rate], asyncio=[rate]) for rate in (7, 9, 8))
    other.machine["cpu"] = "Another (R) CPU @ 2.0 GHz"
    assert hosts.keep(first, tmp_path) == [first]
    assert len(hosts.keep(other, tmp_path)) == 2
    runs = hosts.keep(again, tmp_path)
    assert sorted(run.median("native", "tcp1") for run in runs) == [8, 9]
    assert "one TCP flow at 0.8 to 0.9 and" in hosts.headline(runs)
    assert "| 0.8 |" in hosts.table(runs)


def test_a_page_keeps_its_prose_and_knows_its_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- bench:targets -->\nold\n<!-- /bench:targets -->\nAfter.\n")
    write(run := a_run(kernel=[10], native=[9]), [run], page)
    assert (
        page.read_text()
        == f"Before.\n<!-- bench:targets -->\n{blocks(run)['targets']}\n<!-- /bench:targets -->\nAfter.\n"
    )
    assert "| native, TCP 1 flow, times veth | ≥ 0.85 | ≥ 1 | 0.9 | floor reached |" in page.read_text()
    page.write_text("<!-- bench:nonsense -->\n<!-- /bench:nonsense -->\n")
    with pytest.raises(ValueError, match="no table 'nonsense'"):
        write(run, [run], page)


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    run = a_run(kernel=[1.5])
    run.save(tmp_path / "run.json")
    assert Run.load(tmp_path / "run.json") == run


def test_numbers_have_three_digits_and_none_is_a_dash() -> None:
    assert [cell(value) for value in (0.12345, 12.345, 123.45, 1234.5, math.nan, 7, "text")] == [
        "0.123",
        "12.3",
        "123",
        "1,234",
        "-",
        "7",
        "text",
    ]
    assert markdown(["a", "b"], [["x", 0.5]]) == "| a | b |\n| --- | --- |\n| x | 0.5 |"


SCALE = {
    "sides": {
        "kernel": {"deleted_s": 2.0, "stages": [stage(1, {}), stage(11, {})]},
        "native": {
            "deleted_s": 3.0,
            "stages": [stage(1, {"rss_mib": 50.0, "fds": 20}), stage(11, {"rss_mib": 51.0, "fds": 40})],
        },
    },
    "elsewhere": {"kernel": {"pairs": 11, "added_s": 4.0, "deleted_s": 5.0}},
}
EXTRAS_MADE_UP = {
    "scale": SCALE,
    "latency": {"idle": {"kernel": {"peer up": [0.001]}}, "under load": {"kernel": {"peer up": [0.001, 0.003, 0.002]}}},
    "creation": {"here": {"ip link add": [0.002, 0.004, 0.003], "vethd": [0.006]}, "there": {"ip link add": [0.001]}},
}


def test_each_benchmark_beside_the_contest_has_the_tables_that_it_names() -> None:
    run = a_run(kernel=[1])
    run.extras = dict(EXTRAS_MADE_UP)
    shown = blocks(run)
    for extra in EXTRAS:
        assert [table.title for table in extra.tables(run.extras[extra.name])] == list(extra.titles)
    assert "| 11 | native | 2 | 200 | 20 | 5 | 51 | 102 | 0.001 | 40 |" in shown["scale"]
    assert "| 11 | kernel | 2 | 200 | 20 | 5 | - | - | - | - |" in shown["scale"]
    assert "| kernel, 11 between two other namespaces | 4 | 5 |" in shown["scale_time"]
    assert "| peer up | 2 | 3 |" in shown["latency_load"]
    assert "| vethd | 6 | 6 | 2 | - | - | - |" in shown["creation"]


def test_the_page_has_a_mark_for_every_table() -> None:
    marked = set(MARK.findall((DOCS / "performance.md").read_text()))
    assert {name for _, name, _ in marked} == {"hosts", *blocks(a_run(kernel=[1]))}
    assert [name for _, name, _ in MARK.findall((DOCS.parent / "README.md").read_text())] == ["headline"]


def test_plots_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    run = a_run(kernel=[10], native=[9], socat=[0.5])
    run.extras = {"scale": SCALE}
    first, again = ([path.read_bytes() for path in plots.draw(run, tmp_path / name)] for name in ("a", "b"))
    assert first == again
    assert [path.name for path in sorted((tmp_path / "a").iterdir())] == ["rates.svg", "scale.svg"]
    assert b"socat" in first[0]
