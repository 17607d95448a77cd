"""Compute the counters that a takeover starts from: the predecessor's, and the kernel's since then."""

from __future__ import annotations

from vethd.datapath.engine import Counters
from vethd.kernel.glance import Glance
from vethd.model.drops import DROPS
from vethd.model.record import EndRecord


def resumed_counters(record: EndRecord, sender: Glance, receiver: Glance) -> Counters:
    """Return a predecessor's counters of the frames that sender sent; both glances are of when we began to read.

    The kernel counts a frame as sent when the daemon reads it, so its count is right after a kill, too. The receiver's
    count does not give the forwarded frames, as it counts coalesced frames as one. So forwarded is the number of frames
    that were read and not dropped. The drops of a killed process since it last wrote its record, and the batch that it
    held, count as forwarded.

    A record without dropped_bytes comes from a release without coalescing: there the forwarded bytes are the bytes that
    the receiver counted. A record with more drops than frames does not describe this device; its counts are ignored.
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
    """Return base plus the frames that another process has read since: those that only the kernel's counters include.

    The drops among those frames are unknown: all of them count as forwarded.
    """
    frames, octets = sender.tx_packets - base.read, sender.tx_bytes - base.read_bytes
    return base._replace(
        read=sender.tx_packets,
        read_bytes=sender.tx_bytes,
        forwarded=base.forwarded + frames,
        forwarded_bytes=base.forwarded_bytes + octets,
    )
