"""What a predecessor counted, and what the kernel counted on: the counters a takeover starts from."""

from __future__ import annotations

from vethd.datapath.engine import Counters
from vethd.kernel.glance import Glance
from vethd.model.drops import DROPS
from vethd.model.record import EndRecord


def resumed_counters(record: EndRecord, sender: Glance, receiver: Glance) -> Counters:
    """Return the counters of what sender sent, as a predecessor left them; both as they were when we began to read.

    The kernel counts a frame as sent when it is read: after a kill, too. What the receiver counted is no measure of
    what was forwarded, as coalesced frames are one there; it is what was read and not dropped. What a killed process
    dropped since it last wrote its record, and the batch that it held, count as forwarded.

    A record without dropped_bytes is of one that knew no coalescing: the bytes that its receiver counted are those
    that were forwarded. One that counts more drops than frames is not about this device, and counts for nothing.
    """
    if sum(record.drops) > sender.tx_packets:
        record = EndRecord(fds=record.fds, drops=[0] * DROPS)
    drops = tuple(record.drops)
    dropped_bytes = record.dropped_bytes
    if dropped_bytes is None:
        dropped_bytes = sender.tx_bytes - receiver.rx_bytes if any(drops) else 0
    dropped_bytes = min(max(dropped_bytes, 0), sender.tx_bytes)
    return Counters(
        read=sender.tx_packets,
        read_bytes=sender.tx_bytes,
        forwarded=sender.tx_packets - sum(drops),
        forwarded_bytes=sender.tx_bytes - dropped_bytes,
        drops=drops,
        write_errors=record.write_errors,
    )


def caught_up(base: Counters, sender: Glance) -> Counters:
    """Return counters that another process may have counted past: it read what the kernel counts and base does not.

    What it dropped of that nobody knows: all of it counts as forwarded.
    """
    frames, octets = sender.tx_packets - base.read, sender.tx_bytes - base.read_bytes
    return base._replace(
        read=sender.tx_packets,
        read_bytes=sender.tx_bytes,
        forwarded=base.forwarded + frames,
        forwarded_bytes=base.forwarded_bytes + octets,
    )
