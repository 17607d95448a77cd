"""Names of the reasons for which frames are dropped. They are stable: the API, metrics and docs show them."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Drop(IntEnum):
    """The reason why the engine dropped a frame that it had read; the value is an index into Counters.drops.

    `read = forwarded + sum(drops) + in flight` holds at every instant, per direction.
    """

    NO_PEER = 0  # the receiving device is gone
    PEER_DOWN = 1  # the receiver is administratively down (a write that fails with EIO means the same)
    NO_CARRIER = 2  # both ends are up and the carrier is off (for a moment during a transition)
    OVERSIZE = 3  # not GSO, and longer than the receiver's MTU + 14 + 4
    RUNT = 4  # shorter than an Ethernet header, 14 bytes
    BAD_VNET_HEADER = 5  # a virtio_net_hdr that the receiving TAP refuses with EINVAL
    WRITE_ERROR = 6  # any other write error; Counters.write_errors has the errno
    STALE = 7  # read from the ring after the sender's own carrier had gone off

    @property
    def label(self) -> str:
        """The stable name, e.g. "peer_down"."""
        return self.name.lower()


DROPS = len(Drop)


class KernelDrop(StrEnum):
    """The reason why the sending TAP dropped a frame before userspace read it; the four add up to its tx_dropped."""

    OVERSIZE = "kernel_oversize"  # refused by the tun filter, which counts it
    NO_CARRIER = "kernel_no_carrier"  # sent while the carrier was off
    QUEUE_FULL = "kernel_queue_full"  # the device's ring was full
    UNKNOWN = "kernel_unknown"  # the reason cannot be determined (see kernel_drops.py)
