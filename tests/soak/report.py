"""What is told of a run: a table at its end; where it failed, a directory with all that one wants to read."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.auditor import Auditor
from tests.soak.stage import Stage, Wrong
from tests.soak.traffic import Totals
from tests.soak.windows import Windows
from tests.soak.world import Cut, World

SOURCES = ("/v1/pairs", "/v1/stats", "/v1/engine", "/v1/health")


@dataclass
class Report:
    """One run's result."""

    engine: str
    seed: int
    seconds: float
    wrong: str = ""
    rows: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)

    def text(self) -> str:
        """Return the table."""
        verdict = f"FAILED {self.wrong}" if self.wrong else "all adds up"
        out = [f"soak: {self.engine}, {self.seconds:.0f} s, seed {self.seed}: {verdict}"]
        for title, rows in self.rows:
            out.append(f"\n{title}")
            width = max((len(name) for name, _ in rows), default=0)
            out += [f"  {name:<{width}}  {value:>12}" for name, value in rows]
        return "\n".join(out) + "\n"


def summed_up(report: Report, stage: Stage, windows: Windows, totals: Totals, auditor: Auditor) -> Report:
    """Fill in the table."""
    flows = totals.values()
    report.rows = [
        ("actions", [(kind, f"{number:,}") for kind, number in sorted(stage.counts.items())]),
        (
            "frames",
            [
                ("sent", f"{sum(flow.sent for flow in flows):,}"),
                ("arrived", f"{sum(flow.heard for flow in flows):,}"),
                ("lost outside windows, doubled, astray, corrupt", "0" if not report.wrong else "see above"),
                *[(f"lost in windows: {why}", f"{lost:,}") for why, lost in sorted(windows.costs.items())],
            ],
        ),
        (
            "the daemon",
            [
                ("checks, audits at a standstill", f"{auditor.looks}, {auditor.stocktakings}"),
                ("most descriptors", str(auditor.weigher.most_fds)),
                ("most threads", str(auditor.weigher.most_threads)),
                ("most memory, KB", f"{auditor.weigher.most_rss_kb:,}"),
            ],
        ),
    ]
    return report


def leave_state(directory: Path, report: Report, world: World) -> None:
    """Write down what can still be read of a run that failed: actions, journal, API, namespaces, systemd's view."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.txt").write_text(report.text())
    (directory / "actions.txt").write_text("\n".join(world.stage.actions) + "\n")
    (directory / "all-that-is-wrong.txt").write_text("\n".join(world.stage.wrong) + "\n")
    for name, argv in {
        "journal.txt": ["journalctl", "--no-pager", "--output=short-monotonic"],
        "status.txt": ["systemctl", "status", "--no-pager", "vethd.service"],
        "unit.txt": ["systemctl", "show", "vethd.service"],
    }.items():
        (directory / name).write_text(world.box.run(*argv).stdout)
    for path in SOURCES:
        with suppress(Wrong, Cut):
            (directory / f"{path.rpartition('/')[2]}.json").write_text(_pretty(world.ask("GET", path)[1]))
    links = {}
    for room in world.every_room():
        with suppress(OSError):
            links[room.name] = [vars(link) | {"stats": vars(link.stats)} for link in room.links()]
    (directory / "links.json").write_text(_pretty(links))


def _pretty(what: Any) -> str:
    return json.dumps(what, indent=1, default=str) + "\n"
