"""VLANs of vethd-cni's ports, beside the reference's, in a virtual machine whose bridge filters VLANs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lib.guest import twin

pytestmark = [pytest.mark.heavy, pytest.mark.aside]

PATIENCE_S = 300.0  # an interpreted CPU, on a machine that has too much to do


def test_vlans(root: None, tmp_path: Path) -> None:  # noqa: ARG001 - see conftest.py
    with twin(tmp_path) as machine:
        said = machine.run(".venv/bin/python -m tests.lib.cni_vlans", deadline_s=PATIENCE_S)
    print(said)
    assert "VLANs: apart" in said.splitlines()
