"""vethctl why: the checks that a frame meets between two ends, in their order, with numbers and advice.

Theory of operation. diagnose() is pure: it judges the descriptions and counters of one pair. A check is "ok", "problem"
(frames cannot pass, or are lost), or "note" (frames were lost earlier and the cause is gone, or none was sent). A
command in an advice is in backquotes, and cures the cause.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator
from typing import Literal

import click
import msgspec

from vethd.control.cli import FIND_NETNS, JSON, client_of, complete_link, echo_json
from vethd.control.commands import asked_names
from vethd.control.table import Table
from vethd.control.table import show as show_table
from vethd.model.api import LinkInfo, LinkStats, PairInfo
from vethd.model.drops import Drop, KernelDrop
from vethd.model.errors import VethError
from vethd.model.spec import RING_MAX

State = Literal["ok", "note", "problem"]
RING_STEP = 4


class Finding(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One check of the frames that sender sends to receiver; frames is the number of frames that it concerns."""

    sender: str
    receiver: str
    check: str
    state: State
    detail: str
    frames: int | None = None
    advice: str = ""


@click.command()
@click.argument("name", shell_complete=complete_link)
@FIND_NETNS
@JSON
@click.pass_context
def why(ctx: click.Context, name: str, netns: str | None, *, as_json: bool) -> None:
    """Explain why frames of the pair with an end called NAME do not arrive.

    Shows the checks in the order in which a frame meets them, first for the frames that NAME sends, then for those of
    its peer. FRAMES is the number of frames that a check found since the pair was made. STATE is "ok", "problem"
    (frames are lost; ADVICE is a remedy) or "note" (frames were lost earlier, or none was sent). The exit status is 1
    if there is a problem.
    """
    client = client_of(ctx)
    try:
        link = client.link(name, netns)
    except VethError as error:
        waiting = [info for info in client.pairs() if not info.links and name in asked_names(info)]
        if error.errno != errno.ENODEV or netns is not None or not waiting:
            raise
        findings = [_waits(waiting[0], name)]
    else:
        ends = list(zip(client.pair(link.pair).links, (s for s in client.stats() if s.pair == link.pair), strict=True))
        if (ends[0][0].netns_inode, ends[0][0].ifindex) != (link.netns_inode, link.ifindex):
            ends.reverse()
        findings = [*diagnose(*ends[0], ends[1][0], ends[1][1]), *diagnose(*ends[1], ends[0][0], ends[0][1])]
    if as_json:
        echo_json(findings)
    else:
        for number, way in enumerate(dict.fromkeys((one.sender, one.receiver) for one in findings)):
            click.echo(("\n" if number else "") + f"{way[0]} to {way[1]}:")
            show_table(findings_table([one for one in findings if (one.sender, one.receiver) == way]))
    if any(one.state == "problem" for one in findings):
        ctx.exit(1)


def findings_table(findings: list[Finding]) -> Table:
    """Return a table of the checks of one direction."""
    table = Table(("CHECK", "STATE", ">FRAMES", "DETAIL", "ADVICE"))
    for one in findings:
        table.add(one.check, one.state, "" if one.frames is None else str(one.frames), one.detail, one.advice)
    return table


def diagnose(sender: LinkInfo, sent: LinkStats, receiver: LinkInfo, received: LinkStats) -> list[Finding]:
    """Check one direction of a living pair, in the order in which a frame meets the checks."""
    way = _Way(sender, sent, receiver, received)
    checks = (way.sender_up, way.receiver_up, way.carrier, way.mtu, way.ring, way.others, way.forwarded, way.reception)
    return [finding for check in checks for finding in check()]


class _Way:
    """One direction of a pair: both ends as they are now, and their counters."""

    def __init__(self, sender: LinkInfo, sent: LinkStats, receiver: LinkInfo, received: LinkStats) -> None:
        self.sender, self.sent, self.receiver, self.received = sender, sent, receiver, received
        self.silent = not sent.read and not sent.tx_dropped

    def sender_up(self) -> Iterator[Finding]:
        yield self._up("sender", self.sender)

    def receiver_up(self) -> Iterator[Finding]:
        yield self._up("receiver", self.receiver)

    def carrier(self) -> Iterator[Finding]:
        lost = self._lost(KernelDrop.NO_CARRIER, Drop.NO_CARRIER, Drop.PEER_DOWN, Drop.STALE)
        if not self.sender.carrier:
            yield self._found("carrier", "problem", "off: it comes on when both ends are up", lost)
        elif lost:
            yield self._found("carrier", "note", "on; it was off when these were sent", lost)
        else:
            yield self._found("carrier", "ok", "on", 0)

    def mtu(self) -> Iterator[Finding]:
        lost = self._lost(KernelDrop.OVERSIZE, Drop.OVERSIZE)
        ours, theirs = self.sender.mtu, self.receiver.mtu
        if ours > theirs:
            detail = f"{self.sender.name} has {ours}, but {self.receiver.name} takes {theirs}"
            advice = _set(self.sender, f"--mtu {theirs}") + " or " + _set(self.receiver, f"--mtu {ours}")
            yield self._found("MTU", "problem" if lost else "note", detail, lost, advice)
        elif lost:
            detail = f"these were longer than {self.receiver.name} takes, which is {theirs} now"
            yield self._found("MTU", "note", detail, lost, _set(self.receiver, "--mtu BYTES") + " if they still come")
        else:
            yield self._found("MTU", "ok", f"{ours}, and {self.receiver.name} takes {theirs}", 0)

    def ring(self) -> Iterator[Finding]:
        lost, room = self._lost(KernelDrop.QUEUE_FULL), self.sender.ring
        larger = min(room * RING_STEP, RING_MAX)
        detail = f"{self.sender.name} has room for {room} frames" + (", and was full" if lost else "")
        advice = _set(self.sender, f"--ring {larger}") if lost and larger > room else ""
        yield self._found("ring", "problem" if lost else "ok", detail, lost, advice)

    def others(self) -> Iterator[Finding]:
        """Yield what is rare, and only if it occurred."""
        errors = ", ".join(f"{code} {count}" for code, count in self.sent.write_errors.items())
        name, broken = self.receiver.name, "the program that sends them writes broken frames"
        for reason, state, detail, advice in _rare(name, errors, broken):
            if lost := self._lost(reason):
                yield self._found(reason if isinstance(reason, str) else reason.label, state, detail, lost, advice)

    def forwarded(self) -> Iterator[Finding]:
        if self.silent:
            advice = "look at addresses, routes and neighbours at the sender"
            yield self._found("forwarded", "note", f"{self.sender.name} has sent nothing", 0, advice)
        else:
            yield self._found("forwarded", "ok", f"handed to the kernel at {self.receiver.name}", self.sent.forwarded)

    def reception(self) -> Iterator[Finding]:
        name = self.receiver.name
        if lost := self.received.rx_dropped:
            advice = "nothing there takes their protocol or VLAN, or net.core.netdev_max_backlog is too small"
            yield self._found("reception", "problem", f"dropped by the kernel behind {name}", lost, advice)
        elif not self.silent:
            detail = f"if they have no effect, look at addresses, routes, rp_filter and firewall at {name}"
            yield self._found("reception", "ok", detail, 0)

    def _up(self, check: str, link: LinkInfo) -> Finding:
        if link.up:
            return self._found(check, "ok", f"{link.name} is up")
        return self._found(check, "problem", f"{link.name} is down", None, _set(link, "--up"))

    def _lost(self, *reasons: Drop | KernelDrop) -> int:
        labels = (reason.label if isinstance(reason, Drop) else reason.value for reason in reasons)
        return sum(self.sent.drops.get(label, 0) for label in labels)

    def _found(self, check: str, state: State, detail: str, frames: int | None = None, advice: str = "") -> Finding:
        ends = {"sender": _end(self.sender), "receiver": _end(self.receiver)}
        return Finding(**ends, check=check, state=state, detail=detail, frames=frames, advice=advice)


def _rare(receiver: str, errors: str, broken: str) -> list[tuple[Drop | KernelDrop, State, str, str]]:
    """Return what the rare reasons mean: reason, state, detail, advice."""
    return [
        (KernelDrop.UNKNOWN, "note", "dropped by the kernel; without BPF vethd cannot tell why", ""),
        (Drop.NO_PEER, "note", f"{receiver} was being deleted", ""),
        (Drop.RUNT, "problem", "shorter than an Ethernet header", broken),
        (Drop.BAD_VNET_HEADER, "problem", f"{receiver} refuses what their headers say about offloads", broken),
        (Drop.WRITE_ERROR, "problem", f"{receiver} could not take them: {errors}", "look into the kernel's log"),
    ]


def _waits(info: PairInfo, name: str) -> Finding:
    ends = (info.spec.name or "", info.spec.far_end().name or "")
    other = ends[1] if name == ends[0] else ends[0]
    return Finding(sender=name, receiver=other, check="pair", state="problem", detail=f"not made yet: {info.reason}")


def _set(link: LinkInfo, options: str) -> str:
    where = f" --in {shlex.quote(link.netns)}" if link.netns else ""
    return f"`vethctl set {shlex.quote(link.name)}{where} {options}`"


def _end(link: LinkInfo) -> str:
    return f"{link.name}@{link.netns}" if link.netns else link.name
