"""Both doors for ip(8) beside the real ip on the kernel's veth: the same lines, the same statuses, words and links."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.lib.ip_door import Ip, Step
from tests.lib.lab import Lab
from tests.lib.site import Site
from tests.lib.wait import wait_until
from vethd.clients.ip.install import find_real, install
from vethd.model.spec import RING

LINES = [
    line
    for line in Path(__file__).with_name("data").joinpath("ip_lines.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


T = TypeVar("T")
Links = list[list[dict[str, Any]]]


@pytest.fixture(scope="module")
def programs(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Ip]]:
    """Yield the real ip, vethd-ip as installed, and the real ip under vethd-run, each with namespaces of its own."""
    real = Path(find_real())
    directory = tmp_path_factory.mktemp("bin")
    (directory / "run").mkdir()
    lab = Lab(site)
    with ExitStack() as stack:
        stack.callback(lab.clear)
        made = []
        for program in (real, install(directory, str(real)), under_run(directory / "run" / "ip", real)):
            a, b = lab.netns("a"), lab.netns("b")
            pid = stack.enter_context(b.process())
            made.append(Ip(program, a, b, pid, {"VETHD_SOCKET": str(site.socket)}))
        yield made


@pytest.fixture
def all_three(programs: list[Ip], site: Site) -> Iterator[list[Ip]]:
    """Yield the programs, and clear away what they made."""
    yield programs
    of_each(programs, Ip.clear)
    wait_until(lambda: not site.daemon.pairs(), what="no pair left")


def under_run(script: Path, real: Path) -> Path:
    """Write a program that runs the real ip under vethd-run."""
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m vethd.clients.run.launch {real} "$@"\n')
    script.chmod(0o755)
    return script


def of_each(programs: list[Ip], function: Callable[[Ip], T]) -> list[T]:
    """Call function with each of the programs, at once: they mostly wait."""
    with ThreadPoolExecutor(len(programs)) as pool:
        return list(pool.map(function, programs))


MTU = "Error: vethd: newlink {}: mtu {} is outside 68..65521 (the kernel's veth allows 65535, a TAP does not).\n"
QUEUES = "Error: vethd: newlink va: queues 300 is outside 1..256.\n"
# what both doors say in places where docs/ip.md lists a difference
DIFFERENCES = {
    "link add va mtu 65535 type veth": Step(2, "", MTU.format("va", 65535)),
    "link add va type veth peer name vb mtu 65522": Step(2, "", MTU.format("vb", 65522)),
    "link add va numtxqueues 300 type veth": Step(2, "", QUEUES),
}


@pytest.mark.heavy
@pytest.mark.parametrize("line", LINES)
def test_line(all_three: list[Ip], line: str) -> None:
    """Run a line, and compare."""
    expected, *found = of_each(all_three, lambda program: program.line(line))
    if line in DIFFERENCES:
        assert found == [[DIFFERENCES[line]]] * len(found)
        assert not any(site_names(program) for program in all_three[1:])
        return
    assert found == [expected] * len(found)
    made: list[Links] = []

    def agree() -> bool:
        made[:] = of_each(all_three, lambda program: program.made(line))
        for link in (link for links in made[0] for link in links):
            link["txqlen"] = max(link.get("txqlen", 0), RING)  # docs/ip.md: a device's ring gets no shorter
        return all(ours == made[0] for ours in made[1:])

    with suppress(AssertionError):  # operstate follows the carrier in its own time, with either
        wait_until(agree, what="the same links")
    assert made[1:] == [made[0]] * (len(made) - 1)


def test_every_difference_is_a_line() -> None:
    assert set(DIFFERENCES) <= set(LINES)


def site_names(program: Ip) -> set[str]:
    """Return the names of the devices in both namespaces."""
    return program.a.names() | program.b.names()
