"""The benchmarks run, their file and their page come out, and nothing is left; no figure is judged here."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import report
from tests.benchmarks.data import Run
from tests.benchmarks.tables import cell
from tests.lib.engines import ENGINE
from tests.lib.leaks import Traces
from tests.lib.netns import RUN_NETNS
from tests.lib.wait import wait_until

REPO = Path(__file__).parents[2]
BENCHMARKS = (sys.executable, "-m", "tests.benchmarks", "--quick")
RUN_S = 600.0
CLEARED_S = 60.0
ABSENT = f"{ENGINE}:nonsense=1"
pytestmark = pytest.mark.usefixtures("root")


def namespaces(pid: int) -> list[str]:
    """Name the namespaces that a process's benchmarks have."""
    return [path.name for path in RUN_NETNS.iterdir() if path.name.startswith(f"vt-{pid}-")]


def test_a_short_run_gives_a_file_a_page_and_plots(tmp_path: Path) -> None:
    before = Traces.now()
    file = tmp_path / "run.json"
    only = "tcp1,tcpnogso,udp64,iperf3,iperf3udp64,ping,pingload,rr,creation"
    argv = [*BENCHMARKS, "--only", only, "--contestants", f"kernel,{ENGINE},{ABSENT}", "--json", str(file)]
    process = subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, output
    before.assert_nothing_left()
    assert namespaces(process.pid) == []

    run = Run.load(file)
    for key in (
        "tcp1",
        "tcpnogso",
        "udp64",
        "udp64_over",
        "iperf3",
        "iperf3udp64",
        "ping",
        "pingload",
        "rr_p50",
        "rr_p99",
    ):
        assert run.median("kernel", key) > 0, key
        assert run.ratio(ENGINE, "kernel", key) > 0, key
    assert run.median(ENGINE, "tcp1_cpu") > 0
    assert math.isnan(run.median("kernel", "tcp1_cpu"))
    assert [each.name for each in run.entrants if each.absent] == [ABSENT]
    assert "nonsense" in next(each.absent for each in run.entrants if each.absent)

    page = tmp_path / "performance.md"
    shutil.copy(REPO / "docs" / "performance.md", page)
    readme = tmp_path / "README.md"
    shutil.copy(REPO / "README.md", readme)
    report.main([str(file), "--page", str(page), "--readme", str(readme), "--plots", str(tmp_path / "img")])
    text = page.read_text()
    assert f"| TCP 1 flow, Gbit/s | {cell(run.median('kernel', 'tcp1'))} |" in text
    assert "| ip link add |" in text
    assert "not measured" in text
    kept = page.with_suffix("").glob("*.json")
    assert [Run.load(path) for path in kept] == [run]
    assert f"one TCP flow at {cell(run.ratio(ENGINE, 'kernel', 'tcp1'))} " in readme.read_text()
    assert "<svg" in (tmp_path / "img" / "rates.svg").read_text()


def test_ctrl_c_clears_away(tmp_path: Path) -> None:
    before = Traces.now()
    log = tmp_path / "log"
    with log.open("wb") as out:
        argv = [*BENCHMARKS, "--only", "tcp1", "--contestants", f"kernel,{ENGINE}", "--rounds", "1000"]
        process = subprocess.Popen(argv, cwd=REPO, stdout=out, stderr=out, process_group=0)
    try:
        wait_until(lambda: "round 1" in log.read_text(), RUN_S, "a round")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
        assert process.wait(CLEARED_S) == 128 + signal.SIGINT, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert namespaces(process.pid) == [], log.read_text()
    before.assert_nothing_left()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--only", "tcp9"], "no measure 'tcp9'"),
        (["--contestants", "kernel,carrier-pigeon"], "no contestant 'carrier-pigeon'"),
    ],
)
def test_what_it_does_not_know_it_refuses(args: list[str], words: str) -> None:
    done = subprocess.run([*BENCHMARKS, *args], cwd=REPO, capture_output=True, text=True, check=False, timeout=RUN_S)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
