"""The API's request and reply bodies. These structs are the schema: JSON, OpenAPI and the client come from them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from vethd.model.spec import RING, RING_MAX, RING_MIN, LinkSpec, PairSpec, RxChecksum

SPIN_US = 50
SPIN_US_MAX = 1000
WORKERS_MAX = 64

PairStateName = Literal["alive", "waiting"]
Source = Literal["config", "runtime", "saved"]
SpinUs = Annotated[int, msgspec.Meta(ge=0, le=SPIN_US_MAX)]
Workers = Annotated[int, msgspec.Meta(ge=0, le=WORKERS_MAX)]
Ring = Annotated[int, msgspec.Meta(ge=RING_MIN, le=RING_MAX)]


class PairChange(LinkSpec, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of PATCH /v1/pairs/{id}: what is said is changed, all of it or nothing.

    Everything but queues and index may change on a living pair; alias, altname and master "" take them away. gro
    "default" is as if nobody had ever said it.
    """

    peer: LinkSpec | None = None
    rx_checksum: RxChecksum | None = None
    gro: bool | Literal["default"] | None = None


class LinkInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One end as it is now.

    netns is the name under which the end's namespace is known ("" is the daemon's own; "net:[INODE]" where it
    has no name), netns_inode its inode, by which two namespaces are the same. Lengths in bytes. txqueuelen is what was
    asked for, ring the frames that the device has room for, which `ip link` shows as its qlen.
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
    """The identity of a container's attachment to a network: network, container, and the interface's name there."""

    network: str
    container: str
    ifname: str

    def __str__(self) -> str:
        """Return network/container/ifname, as the API's path has it."""
        return f"{self.network}/{self.container}/{self.ifname}"


class PairInfo(msgspec.Struct, kw_only=True, frozen=True):
    """A pair: its two links, near end first, or, while it waits, why it has none.

    spec is what was asked for; rx_checksum and gro are what holds. owner is the uid that made it, 0 for every
    administrator's and the config's. attachment says which container's interface the pair is, where the CNI plugin made
    it. A client that is neither the owner nor an administrator sees no spec and no attachment, and of the links no
    address, alias, altname and master.
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
    """Counters of one end, since the pair was made; rx and tx are the netdev's view.

    drops holds every reason's count for the frames that this end sent: the engine's reasons (read and not
    forwarded) and the kernel's (kernel_*, which add up to tx_dropped). write_errors splits write_error by
    errno symbol. read = forwarded + engine drops + in flight; rx_dropped is the kernel's own counter.
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

    seq grows by one an event; time is seconds since the epoch. overflow means that this listener was too
    slow and the oldest events were left out for it: read the state anew.
    """

    seq: int
    time: float
    event: EventName
    pair: str = ""
    link: str = ""
    netns: str = ""
    detail: str = ""


class Reconciled(msgspec.Struct, kw_only=True, frozen=True):
    """What a start came to, when what is declared, what a predecessor left and what the kernel has were compared.

    Pairs adopted from the predecessor; lost: those of his record that could not be; created, changed and deleted to
    agree with the config and the saved ones. orphans are file descriptors that no record explained: their devices
    were deleted.
    """

    adopted: int = 0
    lost: int = 0
    created: int = 0
    changed: int = 0
    deleted: int = 0
    orphans: int = 0

    def __str__(self) -> str:
        """Say what was done, "" where nothing was."""
        return ", ".join(f"{count} {what}" for what in self.__struct_fields__ if (count := getattr(self, what)))


class Health(msgspec.Struct, kw_only=True, frozen=True):
    """Reply of GET /v1/health. reconciled is null until the start is over.

    netns_inode is the daemon's own namespace: what an unsaid netns means. owner is whose pairs the caller's are: his
    uid, or 0 where he is an administrator.
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
    """What forwards the frames, and what holds for every pair.

    workers are its threads, 0 where the daemon's own loop does it. spin_us is how long a worker looks on for the
    next frame before it sleeps, in microseconds, None where the engine cannot. gro is for pairs that do not say, ring
    (frames) for ends that do not.
    fallback is why "auto" did not take uring, "" where it did or was not asked.
    """

    name: str
    workers: int
    spin_us: int | None
    gro: bool
    fallback: str
    ring: int = RING


class EngineChange(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of PATCH /v1/engine: what is said holds from now on, until a reload or restart takes the config's word."""

    spin_us: SpinUs | None = None
    gro: bool | None = None
    ring: Ring | None = None


class ErrorBody(msgspec.Struct, kw_only=True, frozen=True):
    """Body of every reply with status 400 or above; errno 0 where no errno says it."""

    code: str
    errno: int
    message: str


class Saved(msgspec.Struct, kw_only=True, frozen=True):
    """Reply of POST /v1/save: how many pairs the state directory now holds, and in which file."""

    pairs: int
    file: str


class PairSet(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Pairs as a config file holds them: the [[pair]] tables."""

    pair: list[PairSpec] = msgspec.field(default_factory=list)
