"""vethctl doctor: check this machine for vethd's requirements and for programs that use it; needs no daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vethd.control.cli import JSON, client_of, echo_json
from vethd.control.client import Client
from vethd.control.errors import DaemonDown
from vethd.control.table import Table
from vethd.control.table import show as show_table
from vethd.model.errors import VethError

if TYPE_CHECKING:
    from vethd.kernel.probe import Check

TIMEOUT_S = 3.0


@click.command()
@JSON
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Check this machine for vethd and the programs that use it.

    The daemon need not run. Each check is "ok", "missing" (vethd needs it; exit status 1) or "note" (vethd works
    without it). ADVICE names a remedy.
    """
    from vethd.control.programs import programs  # noqa: PLC0415  no other command needs it
    from vethd.kernel.probe import probe  # noqa: PLC0415  as above

    checks = [*probe(), engine_check(), daemon_check(Client(client_of(ctx).socket, TIMEOUT_S)), *programs()]
    if as_json:
        echo_json(checks)
    else:
        show_table(checks_table(checks))
    if any(check.required and not check.ok for check in checks):
        ctx.exit(1)


def engine_check() -> Check:
    """Check whether the native engine can run; without it vethd is slower, but complete."""
    from vethd.datapath.native import why_not  # noqa: PLC0415  as above
    from vethd.kernel.probe import Check  # noqa: PLC0415  as above

    obstacle = why_not()
    if obstacle is None:
        return Check(name="engine native", ok=True, required=False, detail="built, and can run here")
    advice = "to use it, install a C compiler and Python.h, and install vethd again"
    return Check(name="engine native", ok=False, required=False, detail=obstacle, advice=advice)


def daemon_check(client: Client) -> Check:
    """Check the daemon; it is a note if it is down, as doctor is about the machine."""
    from vethd.kernel.probe import Check  # noqa: PLC0415  as above

    try:
        health, engine = client.health(), client.engine()
    except DaemonDown as error:
        return Check(
            name="daemon", ok=False, required=False, detail=f"{error.reason} at {error.socket}", advice=error.advice
        )
    except VethError as error:
        return Check(name="daemon", ok=False, required=False, detail=str(error), advice="see the daemon's log")
    detail = f"vethd {health.version}, pid {health.pid}, engine {engine.name}, {health.pairs} pairs"
    if engine.fallback:
        detail += f"; not native: {engine.fallback}"
    if health.waiting:
        detail += f", {health.waiting} waiting"
    if health.reconciled is not None and str(health.reconciled):
        detail += f"; at start {health.reconciled}"
    detail += f"; at {client.socket} you are "
    detail += f"uid {health.owner} and may use only your own pairs" if health.owner else "an administrator"
    return Check(name="daemon", ok=True, required=False, detail=detail, advice="")


def checks_table(checks: list[Check]) -> Table:
    """Return a table of the checks, with advice only for those that are not ok."""
    table = Table(("CHECK", "STATE", "DETAIL", "ADVICE"))
    for check in checks:
        state = "ok" if check.ok else "missing" if check.required else "note"
        table.add(check.name, state, check.detail, "" if check.ok else check.advice)
    return table
