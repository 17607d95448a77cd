"""The API's types about single frames: which frames were dropped, and captures."""

from __future__ import annotations

from typing import Annotated, Literal

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


class LinkLatency(msgspec.Struct, kw_only=True, frozen=True):
    """How long the frames that an end sent were in vethd, since the pair was made or the daemon was started.

    counts are numbers of frames by model.latency.bucket(); bounds_ns are the buckets' upper bounds in nanoseconds.
    total_ns is the sum of all times.
    """

    name: str
    pair: str
    netns: str
    peer_name: str
    peer_netns: str
    counts: list[int]
    bounds_ns: list[int]
    total_ns: int


SNAPLEN_MAX = 262_144
CAPTURE_BUFFER = 4 << 20
CAPTURE_BUFFER_MAX = 256 << 20


class CaptureSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of POST /v1/pairs/{id}/capture.

    filter is a classic BPF program, an instruction as [code, jt, jf, k]; it runs on the frame, Ethernet header first.
    Without instructions it accepts all frames. snaplen is the number of bytes kept of each frame. buffer is the size of
    all rings together, in bytes. drops: whether dropped frames are captured as well, alone or not. ends: "both" also
    captures frames as they are written to the receiver.
    """

    filter: list[tuple[int, int, int, int]] = msgspec.field(default_factory=list)
    snaplen: Annotated[int, msgspec.Meta(ge=1, le=SNAPLEN_MAX)] = SNAPLEN_MAX
    buffer: Annotated[int, msgspec.Meta(ge=1, le=CAPTURE_BUFFER_MAX)] = CAPTURE_BUFFER
    drops: Literal["also", "only", "no"] = "also"
    ends: Literal["one", "both"] = "one"


class CaptureRing(msgspec.Struct, kw_only=True, frozen=True):
    """One ring: the frames that one queue of an end sends; side 0 is the near end."""

    side: int
    queue: int


class CaptureEnd(msgspec.Struct, kw_only=True, frozen=True):
    """An end of the captured pair, as it was called at the start."""

    name: str
    netns: str


class CaptureInfo(msgspec.Struct, kw_only=True, frozen=True):
    """Reply of POST /v1/pairs/{id}/capture, with two file descriptors: a memfd and an eventfd.

    The memfd has the rings one after the other, each of model.capture.HEADER + room bytes. ends has the near end first.
    """

    pair: str
    room: int
    rings: list[CaptureRing]
    ends: list[CaptureEnd]
