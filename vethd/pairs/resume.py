"""What a predecessor counted, and what the kernel counted on: the counters a takeover starts from."""

from __future__ import annotations

from vethd.datapath.engine import Counters
from vethd.model.record import EndRecord
from vethd.pairs.link import Link


def resumed_counters(record: EndRecord, sender: Link, receiver: Link) -> Counters:
    """Give a direction's counters as a predecessor left them.

    The kernel counts a frame as sent when it is read, and as received when it is written: after a kill, too. What
    was read and not written, and died uncounted with the process, is not invented: read is what is accounted for.
    """
    forwarded = receiver.state.counters
    drops = tuple(record.drops)
    lost_bytes = max(sender.state.counters.tx_bytes - forwarded.rx_bytes, 0) if any(drops) else 0
    return Counters(
        read=forwarded.rx_packets + sum(drops),
        read_bytes=forwarded.rx_bytes + lost_bytes,
        forwarded=forwarded.rx_packets,
        forwarded_bytes=forwarded.rx_bytes,
        drops=drops,
        write_errors=record.write_errors,
    )
