"""What an ADD and a DEL take, beside those of the reference bridge plugin: `python -m tests.benchmarks.cni [ROUNDS]`.

As root, with containernetworking-plugins. Both get podman's configuration, each on a host of its own, and are called
in turn; medians in milliseconds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.lib.cni import Case, Container, Host
from tests.lib.site import site as make_site

ROUNDS = 30


def main() -> None:
    """Measure, and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    directory = Path(tempfile.mkdtemp(prefix="vethd-cni-"))
    (directory / "site").mkdir()
    with make_site(directory / "site") as (site, lab):
        site.start()
        case = Case(site, lab, directory)
        conf = case.conf(isGateway=True, ipMasq=True, hairpinMode=True)
        took: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for name, host in (("vethd-cni", case.ours), ("bridge", case.theirs)):
                said = case.own(conf, host)
                container = case.container(host)
                took.setdefault((name, "VERSION"), []).append(_timed_version(host))
                for command in ("ADD", "DEL"):
                    took.setdefault((name, command), []).append(_timed(container, command, said))
                container.netns.delete()
        case.clear()
        case.theirs.netns.delete()
    shutil.rmtree(directory)
    print(f"median of {rounds}, ms  vethd-cni  bridge  ratio")
    for command in ("VERSION", "ADD", "DEL"):
        ours, theirs = (1000 * median(took[name, command]) for name in ("vethd-cni", "bridge"))
        print(f"{command:<17} {ours:>10.1f} {theirs:>7.1f} {ours / theirs:>6.2f}")


def _timed(container: Container, command: str, conf: dict[str, Any]) -> float:
    started = time.perf_counter()
    answer = container.call(command, conf)
    took = time.perf_counter() - started
    assert answer.status == 0, answer
    return took


def _timed_version(host: Host) -> float:
    program = next(path for one in host.path.split(":") if (path := Path(one, host.plugin)).exists())
    started = time.perf_counter()
    subprocess.run([program], input=b"{}", env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
