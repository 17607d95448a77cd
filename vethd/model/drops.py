"""Names of the ends a frame can come to, other than being forwarded. Stable: API, metrics and docs show them."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Drop(IntEnum):
    """Why the engine did not forward a frame that it had read; the value is an index into Counters.drops.

    `read = forwarded + sum(drops) + in flight` holds at every instant, per direction.
    """

    NO_PEER = 0  # the receiving device is gone
    PEER_DOWN = 1  # the receiver is administratively down (also: write answered EIO, which says just that)
    NO_CARRIER = 2  # both ends are up and the carrier is not (a moment of a transition)
    OVERSIZE = 3  # not GSO, and longer than the receiver's MTU + 14 + 4
    RUNT = 4  # shorter than an Ethernet header, 14 bytes
    BAD_VNET_HEADER = 5  # a virtio_net_hdr that the receiving TAP would answer EINVAL
    WRITE_ERROR = 6  # any other error of the write; Counters.write_errors says which errno
    STALE = 7  # read after the sender's own carrier had gone: it sat in the ring

    @property
    def label(self) -> str:
        """The stable name, e.g. "peer_down"."""
        return self.name.lower()


DROPS = len(Drop)


class KernelDrop(StrEnum):
    """Why the sending TAP dropped a frame that userspace never saw; together they are its tx_dropped."""

    OVERSIZE = "kernel_oversize"  # refused by the tun filter, which counts it
    NO_CARRIER = "kernel_no_carrier"  # sent while the carrier was off
    QUEUE_FULL = "kernel_queue_full"  # txqueuelen frames were waiting already
    UNKNOWN = "kernel_unknown"  # cannot be told apart (see kernel_drops.py)
