"""vethd installed by `make install` in a virtual machine whose kernel has no veth: all ways of using it.

VETHD_KERNELS names the suites of Debian whose kernels are booted, one after the other (`make test-kernels`); by default
it is the one kernel of the other tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.guest import KERNEL, MODULES, Twin, twin
from tests.lib.packaging import make
from tests.lib.without_veth import STEPS

pytestmark = [pytest.mark.heavy, pytest.mark.aside, pytest.mark.usefixtures("root")]

PATIENCE_S = 600.0  # an interpreted CPU, on a machine that has too much to do
SUITES = os.environ.get("VETHD_KERNELS", "").split()
OURS = [name for name in MODULES if name != "veth"] + ["nft_chain_nat", "nft_masq"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install vethd below a directory."""
    path = tmp_path_factory.mktemp("installed")
    make("install", f"DESTDIR={path}")
    return path


@pytest.fixture(params=SUITES or ["default"])
def machine(request: pytest.FixtureRequest, installed: Path, tmp_path: Path) -> Iterator[Twin]:
    """Boot a kernel without its veth.ko, with vethd installed."""
    kernel = KERNEL.parent / request.param / KERNEL.name if SUITES else KERNEL
    with twin(tmp_path, kernel, OURS, installed) as it:
        yield it


def test_all_of_it(machine: Twin) -> None:
    print(machine.run("uname -r"))
    said = machine.run(".venv/bin/python -m tests.lib.without_veth", deadline_s=PATIENCE_S)
    print(said)
    lines = said.splitlines()
    assert [step for step in STEPS if step not in lines] == []
