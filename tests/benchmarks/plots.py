"""Plots of a run, as small SVG files: ratios to the kernel's veth, and what a busy pair carries beside idle ones."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "vethd"  # the same figures give the same file
mpl.rcParams["svg.fonttype"] = "none"  # text stays text: small files
mpl.rcParams["font.size"] = 8

from matplotlib import pyplot as plt  # noqa: E402 - after the choice of its backend
from matplotlib.figure import Figure  # noqa: E402 - as above
from matplotlib.ticker import ScalarFormatter  # noqa: E402 - as above

from tests.benchmarks.data import Run, median  # noqa: E402

KERNEL = "kernel"
RATES = ("tcp1", "tcp4", "tcpboth", "tcpnogso", "udp64", "udp64x4", "udp1400", "udpgso")
TIMES = ("ping", "pinga", "rr_p50", "rrapart_p50", "rrload_p50")
BAR = 0.8
PER_ROW_IN, WIDTH_IN = 0.42, 6.4


def draw(run: Run, directory: Path) -> list[Path]:
    """Draw what the run has figures for, and return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = [
        _bars(run, RATES, "rate, times the kernel's veth (more is better)", directory / "rates.svg"),
        _bars(run, TIMES, "time, times the kernel's veth (less is better)", directory / "times.svg"),
        _scale(run, directory / "scale.svg"),
    ]
    return [path for path in drawn if path is not None]


def _bars(run: Run, keys: tuple[str, ...], label: str, path: Path) -> Path | None:
    measured = {sample.contestant for sample in run.samples}
    names = [each.name for each in run.entrants if each.name in measured and each.name != KERNEL]
    names = [name for name in names if ":" not in name]
    figures = [figure for figure in run.figures if figure.key in keys]
    values = {name: [run.ratio(name, KERNEL, figure.key) for figure in figures] for name in names}
    if not figures or not any(not math.isnan(value) for row in values.values() for value in row):
        return None
    picture, axes = plt.subplots(figsize=(WIDTH_IN, 0.8 + PER_ROW_IN * len(figures) * max(1, len(names) / 3)))
    height = BAR / len(names)
    for number, name in enumerate(names):
        places = [row + number * height for row in range(len(figures))]
        shown = [0 if math.isnan(value) else value for value in values[name]]
        bars = axes.barh(places, shown, height, label=name)
        axes.bar_label(bars, [f"{value:.2g}" if value else "" for value in shown], padding=2, fontsize=6)
    axes.axvline(1, color="black", linewidth=0.8)
    titles = [figure.title.rpartition(", ")[0] for figure in figures]  # a ratio has no unit
    axes.set_yticks([row + (BAR - height) / 2 for row in range(len(figures))], titles)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    if keys is TIMES:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(len(names), 4), columnspacing=1)
    return _save(picture, path)


def _scale(run: Run, path: Path) -> Path | None:
    found = run.extras.get("scale")
    if not found:
        return None
    picture, axes = plt.subplots(1, 2, figsize=(WIDTH_IN, 2.6))
    for axis, key, label in zip(axes, ("tcp1", "udp64"), ("TCP, Gbit/s", "UDP 64 B lossless, thousand/s"), strict=True):
        for name, side in found["sides"].items():
            stages = side["stages"]
            axis.plot(
                [each["pairs"] for each in stages], [median(each[key]) for each in stages], marker="o", label=name
            )
        axis.set_xscale("log")
        axis.set_xticks([each["pairs"] for each in stages], [f"{each['pairs']:,}" for each in stages], minor=False)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("pairs")
        axis.set_ylabel(label)
    axes[0].legend(frameon=False, loc="lower left")
    return _save(picture, path)


def _save(picture: Figure, path: Path) -> Path:
    picture.tight_layout()
    picture.savefig(path, metadata={"Date": None})
    plt.close(picture)
    return path
