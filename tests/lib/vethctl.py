"""vethctl on a daemon that is not one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from tests.lib.fake_daemon import FakeDaemon
from vethd.control.main import cli

Run = Callable[..., Result]


@pytest.fixture(name="run")
def run_fixture(daemon: FakeDaemon) -> Run:
    """Return a function that runs vethctl on the test's daemon and checks its exit status."""

    def run(*args: str, status: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(cli, ["--socket", daemon.path, *args], prog_name="vethctl", input=stdin)
        assert result.exit_code == status, result.output
        return result

    return run
