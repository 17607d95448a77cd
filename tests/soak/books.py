"""The books: what the daemon counted and what the kernel counted, held against each other and against before.

Counters move while they are read, so three readings are compared: the kernel's, the daemon's, the kernel's again. What
the daemon says must lie between. Of one daemon no counter ever goes back; over a kill the reasons of drops may, by what
was not written down yet: those frames then count as forwarded (docs/reliability.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vethd.model.drops import Drop, KernelDrop

ENGINE_DROPS = [drop.label for drop in Drop]
KERNEL_DROPS = [drop.value for drop in KernelDrop]
GROWING = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "rx_dropped", "tx_dropped", "carrier_changes")
COUNTED = ("read", "read_bytes", "forwarded", "forwarded_bytes")
BETWEEN = {  # what the API says -> what the kernel says
    "rx_packets": "rx_packets",
    "rx_bytes": "rx_bytes",
    "tx_packets": "tx_packets",
    "tx_bytes": "tx_bytes",
    "rx_dropped": "rx_dropped",
    "tx_dropped": "tx_dropped",
    "read": "tx_packets",
    "read_bytes": "tx_bytes",
}

Place = tuple[str, int]
"""A device's namespace and ifindex."""


@dataclass
class Reading:
    """One look at the counters: the API's, and the kernel's just before and just after, by where the device is.

    killed, steady and reborn say what happened since the look before: whether the daemon was killed, of which pairs
    (their ids) nobody touched the carrier, and which were made anew, as declared ones are, and so count from zero.
    """

    stats: Sequence[Mapping[str, Any]]
    before: Mapping[Place, Mapping[str, int]]
    after: Mapping[Place, Mapping[str, int]]
    killed: bool = False
    steady: frozenset[str] = frozenset()
    reborn: frozenset[str] = frozenset()


@dataclass
class Books:
    """Remembers the last reading of every end, by its pair and which end of it."""

    _last: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)

    def look(self, reading: Reading) -> list[str]:
        """Take a reading into the books; say what is wrong with it."""
        wrong: list[str] = []
        now: dict[tuple[str, int], Mapping[str, Any]] = {}
        for end in reading.stats:
            key = (end["pair"], sum(pair == end["pair"] for pair, _ in now))
            now[key] = end
            found = [*_sums(end), *_kernels(end, reading)]
            if (last := self._last.get(key)) and end["pair"] not in reading.reborn:
                found += _gone_back(last, end, killed=reading.killed)
                if end["pair"] in reading.steady and end["carrier_changes"] != last["carrier_changes"]:
                    moved = f"{last['carrier_changes']} to {end['carrier_changes']}"
                    found.append(f"carrier_changes went from {moved}, and nobody touched it")
            wrong += [f"{end['name']} in {end['netns']} ({end['pair']}): {one}" for one in found]
        self._last = now
        return wrong


def _sums(end: Mapping[str, Any]) -> Iterator[str]:
    drops, kernel = (sum(end["drops"][reason] for reason in reasons) for reasons in (ENGINE_DROPS, KERNEL_DROPS))
    if end["read"] != end["forwarded"] + drops + end["in_flight"]:
        yield f"read {end['read']} is not forwarded {end['forwarded']} + drops {drops} + in flight {end['in_flight']}"
    if kernel != end["tx_dropped"]:
        yield f"the kernel's drops come to {kernel}, tx_dropped is {end['tx_dropped']}"
    if sum(end["write_errors"].values()) != end["drops"]["write_error"]:
        yield f"write errors {end['write_errors']} do not come to {end['drops']['write_error']}"


def _kernels(end: Mapping[str, Any], reading: Reading) -> Iterator[str]:
    place = (end["netns"], end["ifindex"])
    if place not in reading.before or place not in reading.after:
        return  # it moved, came or went between the looks, or is where nobody looks
    before, after = reading.before[place], reading.after[place]
    if any(after[name] < before[name] for name in before):
        return  # another device has that index now
    for said, known in BETWEEN.items():
        if not before[known] <= end[said] <= after[known]:
            yield f"{said} is {end[said]}, the kernel's {known} went from {before[known]} to {after[known]}"


def _gone_back(last: Mapping[str, Any], end: Mapping[str, Any], *, killed: bool) -> Iterator[str]:
    for name in (*GROWING, *COUNTED):
        if end[name] < last[name]:
            yield f"{name} went back from {last[name]} to {end[name]}"
    if killed:
        return
    for reason, count in last["drops"].items():
        if end["drops"][reason] < count:
            yield f"{reason} went back from {count} to {end['drops'][reason]}"
