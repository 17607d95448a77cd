"""What a predecessor counted, and what the kernel counted on: the counters a takeover starts from."""

from __future__ import annotations

from vethd.datapath.engine import Counters
from vethd.model.record import EndRecord
from vethd.pairs.link import Link


def resumed_counters(record: EndRecord, sender: Link, receiver: Link) -> Counters:
    """Give the counters of what sender sent, as a predecessor left them.

    The kernel counts a frame as sent when it is read: after a kill, too. What the receiver counted is no measure of
    what was forwarded, as coalesced frames are one there; it is what was read and not dropped. What a killed process
    dropped since it last wrote its record, and the batch that it held, count as forwarded.

    A record without dropped_bytes is of one that knew no coalescing: the bytes that its receiver counted are those
    that were forwarded.
    """
    sent, drops = sender.state.counters, tuple(record.drops)
    dropped_bytes = record.dropped_bytes
    if dropped_bytes is None:
        dropped_bytes = max(sent.tx_bytes - receiver.state.counters.rx_bytes, 0) if any(drops) else 0
    return Counters(
        read=sent.tx_packets,
        read_bytes=sent.tx_bytes,
        forwarded=sent.tx_packets - sum(drops),
        forwarded_bytes=sent.tx_bytes - dropped_bytes,
        drops=drops,
        write_errors=record.write_errors,
    )
