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


@pytest.fixture(scope="module", params=["vethd-ip", "vethd-run"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def programs(site: Site, tmp_path_factory: pytest.TempPathFactory, door: str) -> Iterator[tuple[Ip, Ip]]:
    """Yield the real ip, and vethd-ip as installed or the real ip under vethd-run, each with namespaces of its own."""
    real = Path(find_real())
    directory = tmp_path_factory.mktemp("bin")
    ours = install(directory, str(real)) if door == "vethd-ip" else under_run(directory / "ip", real)
    lab = Lab(site)
    with ExitStack() as stack:
        stack.callback(lab.clear)
        made = []
        for program in (real, ours):
            a, b = lab.netns("a"), lab.netns("b")
            pid = stack.enter_context(b.process())
            made.append(Ip(program, a, b, pid, {"VETHD_SOCKET": str(site.socket)}))
        yield made[0], made[1]


@pytest.fixture
def both(programs: tuple[Ip, Ip], site: Site) -> Iterator[tuple[Ip, Ip]]:
    """Yield both programs, and clear away what they made."""
    yield programs
    of_both(programs, Ip.clear)
    wait_until(lambda: not site.daemon.pairs(), what="no pair left")


def under_run(script: Path, real: Path) -> Path:
    """Write a program that runs the real ip under vethd-run."""
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m vethd.clients.run.launch {real} "$@"\n')
    script.chmod(0o755)
    return script


def of_both(programs: tuple[Ip, Ip], function: Callable[[Ip], T]) -> tuple[T, T]:
    """Call function with each of both programs, at once: they mostly wait."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(function, programs)
    return first, second


MTU = "Error: vethd: newlink {}: mtu {} is outside 68..65521 (the kernel's veth allows 65535, a TAP does not).\n"
QUEUES = "Error: vethd: newlink va: queues 300 is outside 1..256.\n"
# what vethd-ip says in places where docs/ip.md lists a difference
DIFFERENCES = {
    "link add va mtu 65535 type veth": Step(2, "", MTU.format("va", 65535)),
    "link add va type veth peer name vb mtu 65522": Step(2, "", MTU.format("vb", 65522)),
    "link add va numtxqueues 300 type veth": Step(2, "", QUEUES),
}


@pytest.mark.heavy
@pytest.mark.parametrize("line", LINES)
def test_line(both: tuple[Ip, Ip], line: str) -> None:
    """Run a line, and compare."""
    expected, found = of_both(both, lambda program: program.line(line))
    if line in DIFFERENCES:
        assert found == [DIFFERENCES[line]]
        assert not site_names(both[1])
    else:
        assert found == expected
        made: tuple[Links, Links] = ([], [])

        def agree() -> bool:
            nonlocal made
            veth, ours = of_both(both, lambda program: program.made(line))
            for link in (link for links in veth for link in links):
                link["txqlen"] = max(link.get("txqlen", 0), RING)  # docs/ip.md: a device's ring gets no shorter
            made = veth, ours
            return made[0] == made[1]

        with suppress(AssertionError):  # operstate follows the carrier in its own time, with either
            wait_until(agree, what="the same links")
        assert made[1] == made[0]


def test_every_difference_is_a_line() -> None:
    assert set(DIFFERENCES) <= set(LINES)


def site_names(program: Ip) -> set[str]:
    """Return the names of the devices in both namespaces."""
    return program.a.names() | program.b.names()
