"""The API's request and reply bodies. JSON, OpenAPI and the client are derived from these structs."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from vethd.model.spec import RING, RING_MAX, RING_MIN, LinkSpec, PairSpec, RxChecksum

SPIN_US = 50
SPIN_US_MAX = 1000
MODERATION_US = 50
MODERATION_US_MAX = 1000
FORMER_ENGINES = {"uring": "native"}  # the names of the release before, which this one accepts, and today's
WORKERS_MAX = 64

PairStateName = Literal["alive", "waiting"]
Source = Literal["config", "runtime", "saved"]
SpinUs = Annotated[int, msgspec.Meta(ge=0, le=SPIN_US_MAX)]
ModerationUs = Annotated[int, msgspec.Meta(ge=0, le=MODERATION_US_MAX)]
Workers = Annotated[int, msgspec.Meta(ge=0, le=WORKERS_MAX)]
Ring = Annotated[int, msgspec.Meta(ge=RING_MIN, le=RING_MAX)]


class PairChange(LinkSpec, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of PATCH /v1/pairs/{id}: the attributes to change. Either all of them change or none.

    Every attribute except queues, index and latency_queue can change on a living pair. An empty alias, altname or
    master ("") removes the attribute. gro "default" removes the pair's own setting.
    """

    peer: LinkSpec | None = None
    rx_checksum: RxChecksum | None = None
    gro: bool | Literal["default"] | None = None
    latency_queue: bool | None = None


class LinkInfo(msgspec.Struct, kw_only=True, frozen=True):
    """The current state of one end.

    netns is the name of the end's namespace: "" for the daemon's own, "net:[INODE]" for a namespace without a name.
    netns_inode is its inode, which is equal for ends in the same namespace. Lengths are in bytes. txqueuelen is the
    requested value. ring is the number of frames that the device has room for; `ip link` shows it as qlen.
    """

    name: str
    pair: str
    netns: str
    netns_inode: int
    ifindex: int
    address: str
    mtu: int
    txqueuelen: int
    queues: int
    group: int
    alias: str
    altname: str
    master: str
    up: bool
    carrier: bool
    operstate: str
    promisc: bool
    allmulticast: bool
    arp: bool
    multicast: bool
    peer_name: str
    peer_ifindex: int
    peer_netns: str
    ring: int = RING


class AttachmentKey(msgspec.Struct, frozen=True):
    """The identity of a container's attachment: network, container, and the interface's name in the container."""

    network: str
    container: str
    ifname: str

    def __str__(self) -> str:
        """Return network/container/ifname, as in the API's path."""
        return f"{self.network}/{self.container}/{self.ifname}"


class PairInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A pair: its two links, near end first. A waiting pair has no links, and reason explains why.

    spec is the request; rx_checksum and gro are the values in effect. Without BPF, a pair whose spec has latency_queue
    has one queue, as its links show. owner is the uid that made the pair, 0 for pairs of administrators and of the
    config. attachment identifies the container's interface if the CNI plugin made the pair. A client that is neither
    the owner nor an administrator sees no spec and no attachment, and no address, alias, altname and master of the
    links.
    """

    id: str
    state: PairStateName
    reason: str
    source: Source
    engine: str
    rx_checksum: RxChecksum
    gro: bool
    spec: PairSpec
    links: list[LinkInfo]
    owner: int = 0
    attachment: AttachmentKey | None = None


class LinkStats(msgspec.Struct, kw_only=True, frozen=True):
    """Counters of one end since the pair was made. rx and tx are the netdev's view.

    drops maps each reason to a number of frames that this end sent: the engine's reasons (frames that were read and
    not forwarded) and the kernel's (kernel_*, which add up to tx_dropped). write_errors splits write_error by errno
    symbol. read = forwarded + engine drops + in flight. rx_dropped is the kernel's own counter.
    """

    name: str
    pair: str
    netns: str
    ifindex: int
    peer_name: str
    peer_ifindex: int
    peer_netns: str
    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int
    carrier_changes: int
    read: int
    read_bytes: int
    forwarded: int
    forwarded_bytes: int
    in_flight: int
    drops: dict[str, int]
    write_errors: dict[str, int]


EventName = Literal[
    "pair_created",
    "pair_deleted",
    "pair_waiting",
    "pair_changed",
    "link_up",
    "link_down",
    "link_moved",
    "link_renamed",
    "link_changed",
    "link_gone",
    "carrier_on",
    "carrier_off",
    "engine_changed",
    "reloaded",
    "overflow",
]


class PairEvent(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """One line of GET /v1/events (newline-delimited JSON).

    seq increases by one with each event. time is in seconds since the epoch. overflow means that this listener was too
    slow and that the oldest events were dropped for it: read the state again.
    """

    seq: int
    time: float
    event: EventName
    pair: str = ""
    link: str = ""
    netns: str = ""
    detail: str = ""


class Reconciled(msgspec.Struct, kw_only=True, frozen=True):
    """The result of a start, which compares the declared pairs, the predecessor's pairs and the kernel's devices.

    adopted counts the pairs taken over from the predecessor, lost those of its record that could not be taken over.
    created, changed and deleted count the pairs that were made to agree with the config and the saved pairs. orphans
    counts file descriptors that no record explained; their devices were deleted.
    """

    adopted: int = 0
    lost: int = 0
    created: int = 0
    changed: int = 0
    deleted: int = 0
    orphans: int = 0

    def __str__(self) -> str:
        """Return the counts that are not 0, in words; "" if all are 0."""
        return ", ".join(f"{count} {what}" for what in self.__struct_fields__ if (count := getattr(self, what)))


class Health(msgspec.Struct, kw_only=True, frozen=True):
    """Reply of GET /v1/health. reconciled is null until the start is complete.

    netns_inode is the inode of the daemon's own namespace, which applies if a request has no netns. owner is the owner
    of the pairs that the caller makes: the caller's uid, or 0 for an administrator.
    """

    status: Literal["ok"]
    version: str
    pid: int
    engine: str
    uptime_s: float
    netns_inode: int
    pairs: int
    waiting: int
    owner: int = 0
    reconciled: Reconciled | None = None


class EngineInfo(msgspec.Struct, kw_only=True, frozen=True):
    """The engine that forwards the frames, and the settings for all pairs.

    workers is the number of its threads, 0 if the daemon's own loop forwards. spin_us is how long a worker polls for
    the next frame before it sleeps, and moderation_us how long it pauses at most while frames come in bulk, both in
    microseconds, None if the engine cannot. gro applies to pairs that do not set it, ring (frames) to ends that do not
    set it. fallback is the reason why "auto" did not choose native; it is "" if "auto" chose it or was not requested.
    """

    name: str
    workers: int
    spin_us: int | None
    moderation_us: int | None = None
    gro: bool
    fallback: str
    ring: int = RING


class EngineChange(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of PATCH /v1/engine. Its values apply until a reload or restart, which applies the config's values again."""

    spin_us: SpinUs | None = None
    moderation_us: ModerationUs | None = None
    gro: bool | None = None
    ring: Ring | None = None


class ErrorBody(msgspec.Struct, kw_only=True, frozen=True):
    """Body of every reply with status 400 or above; errno is 0 if no errno applies."""

    code: str
    errno: int
    message: str


class Saved(msgspec.Struct, kw_only=True, frozen=True):
    """Reply of POST /v1/save: how many pairs the state directory now holds, and in which file."""

    pairs: int
    file: str


class PairSet(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The [[pair]] tables of a config file."""

    pair: list[PairSpec] = msgspec.field(default_factory=list)
