"""The counters that a takeover starts from: frames as they were sent, whatever the receiver was given them in."""

from __future__ import annotations

import msgspec

from vethd.kernel.glance import Glance
from vethd.memory.resume import caught_up, resumed_counters
from vethd.model.drops import DROPS, Drop
from vethd.model.kernel_drops import KernelDrops
from vethd.model.record import EndRecord


def record(drops: dict[Drop, int], dropped_bytes: int | None) -> EndRecord:
    return EndRecord(
        fds=["t1"],
        alias="",
        altname="",
        own_alias=False,
        drops=[drops.get(Drop(n), 0) for n in range(DROPS)],
        dropped_bytes=dropped_bytes,
        write_errors={12: drops.get(Drop.WRITE_ERROR, 0)},
        kernel_drops=KernelDrops(),
    )


def sender(frames: int, octets: int) -> Glance:
    return Glance(up=True, mtu=1500, tx_packets=frames, tx_bytes=octets, rx_bytes=0)


def receiver(octets: int) -> Glance:
    return Glance(up=True, mtu=1500, tx_packets=0, tx_bytes=0, rx_bytes=octets)


def test_read_is_what_the_device_sent_and_forwarded_is_the_rest() -> None:
    dropped = record({Drop.PEER_DOWN: 3, Drop.WRITE_ERROR: 2}, 500)
    counters = resumed_counters(dropped, sender(100, 9000), receiver(8000))
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
    counters = resumed_counters(read, sender(2, 73), receiver(60))
    assert (counters.read_bytes, counters.forwarded, counters.forwarded_bytes) == (73, 1, 60)
    counters = resumed_counters(record({}, None), sender(2, 73), receiver(60))
    assert (counters.forwarded, counters.forwarded_bytes) == (2, 73)


def test_a_record_that_counts_more_than_there_was_counts_for_nothing() -> None:
    counters = resumed_counters(record({Drop.RUNT: 5}, 5000), sender(4, 400), receiver(0))
    assert (counters.read, counters.forwarded, counters.forwarded_bytes, sum(counters.drops)) == (4, 4, 400, 0)
    counters = resumed_counters(record({Drop.RUNT: 2}, 5000), sender(4, 400), receiver(0))
    assert (counters.forwarded, counters.forwarded_bytes) == (2, 0)


def test_what_another_has_read_counts_as_forwarded() -> None:
    ours = resumed_counters(record({Drop.RUNT: 2}, 26), sender(10, 1000), receiver(0))
    counters = caught_up(ours, sender(15, 1500))
    assert (counters.read, counters.read_bytes) == (15, 1500)
    assert (counters.forwarded, counters.forwarded_bytes, sum(counters.drops)) == (13, 1474, 2)
    assert caught_up(ours, sender(10, 1000)) == ours
