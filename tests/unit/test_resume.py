"""The counters that a takeover starts from: frames as they were sent, whatever the receiver was given them in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from vethd.kernel.linkstate import LinkCounters
from vethd.model.drops import DROPS, Drop
from vethd.model.kernel_drops import KernelDrops
from vethd.model.record import EndRecord
from vethd.pairs.resume import resumed_counters


def record(drops: dict[Drop, int], dropped_bytes: int | None) -> EndRecord:
    return EndRecord(
        fds=[],
        alias="",
        altname="",
        own_alias=False,
        drops=[drops.get(Drop(n), 0) for n in range(DROPS)],
        dropped_bytes=dropped_bytes,
        write_errors={12: drops.get(Drop.WRITE_ERROR, 0)},
        kernel_drops=KernelDrops(),
    )


def sender(frames: int, octets: int) -> Any:
    return SimpleNamespace(state=SimpleNamespace(counters=LinkCounters(tx_packets=frames, tx_bytes=octets)))


def receiver(frames: int, octets: int) -> Any:
    return SimpleNamespace(state=SimpleNamespace(counters=LinkCounters(rx_packets=frames, rx_bytes=octets)))


def test_read_is_what_the_device_sent_and_forwarded_is_the_rest() -> None:
    dropped = record({Drop.PEER_DOWN: 3, Drop.WRITE_ERROR: 2}, 500)
    counters = resumed_counters(dropped, sender(100, 9000), receiver(2, 8000))
    assert (counters.read, counters.read_bytes, counters.in_flight) == (100, 9000, 0)
    assert (counters.forwarded, counters.forwarded_bytes) == (95, 8500)
    assert (counters.drops[Drop.PEER_DOWN], counters.write_errors) == (3, {12: 2})
    assert counters.read == counters.forwarded + sum(counters.drops)


def test_a_record_from_before_bytes_were_counted_is_read() -> None:
    """Nothing coalesced then, and the receiver's bytes are those forwarded; dropped ones are not counted as such."""
    old = msgspec.to_builtins(record({Drop.RUNT: 1}, 13))
    del old["dropped_bytes"]
    read = msgspec.convert(old, EndRecord, str_keys=True)
    assert read == record({Drop.RUNT: 1}, None)
    counters = resumed_counters(read, sender(2, 73), receiver(1, 60))
    assert (counters.read_bytes, counters.forwarded, counters.forwarded_bytes) == (73, 1, 60)
    counters = resumed_counters(record({}, None), sender(2, 73), receiver(1, 60))
    assert (counters.forwarded, counters.forwarded_bytes) == (2, 73)
