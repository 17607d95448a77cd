"""vethctl on a daemon that is not one."""

from __future__ import annotations

from collections.abc import Callable

from click.testing import CliRunner, Result

from tests.lib.fake_daemon import FakeDaemon
from vethd.control.main import cli

Run = Callable[..., Result]


def runner(daemon: FakeDaemon) -> Run:
    """Give a function that runs vethctl on that daemon and checks its exit status."""

    def run(*args: str, status: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(cli, ["--socket", daemon.path, *args], prog_name="vethctl", input=stdin)
        assert result.exit_code == status, result.output
        return result

    return run
