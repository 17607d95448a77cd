"""The API's types about single frames: which frames were dropped, and why."""

from __future__ import annotations

import msgspec

DROPS_SHOWN = 20
DROPS_SHOWN_MAX = 1000


class DroppedFrame(msgspec.Struct, kw_only=True, frozen=True):
    """A frame that the engine read from one end of a pair and did not forward.

    seq is greater for each frame dropped later; it starts again when the daemon does. time_ns is in nanoseconds since
    the epoch. link sent the frame, and peer_name would have received it. errno is the symbol of a failed write, "" if
    the frame was not written. frames is the number of frames that were coalesced to this one. length and limit are in
    bytes with the Ethernet header: a longer frame that is no super-frame was oversize. queue is the number of the
    sender's queue. vnet is the virtio_net_hdr in the machine's byte order, data the frame's first bytes, at most 128.
    """

    seq: int
    time_ns: int
    pair: str
    link: str
    netns: str
    peer_name: str
    peer_netns: str
    reason: str
    errno: str
    frames: int
    length: int
    limit: int
    queue: int
    vnet: bytes
    data: bytes


class DroppedFrames(msgspec.Struct, kw_only=True, frozen=True):
    """Reply of GET /v1/drops: the newest dropped frames, the oldest of them first.

    The engine keeps the last 64 frames of each queue and direction. total is the number of frames, kept or not, that
    the engine dropped since the pairs were made, for the requested reason if there is one. seq is the greatest number
    of a kept frame, 0 if none is kept.
    """

    total: int
    seq: int
    frames: list[DroppedFrame]
