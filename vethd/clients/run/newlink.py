"""What a RTM_NEWLINK of kind veth asks for, in the API's form.

Kernel: rtnl_newlink() and rtnl_create_link() in net/core/rtnetlink.c, veth_newlink() in drivers/net/veth.c. Namespaces
are left to the caller's: an end's says which attribute named it.
"""

from __future__ import annotations

from vethd.clients.run import rtnl
from vethd.clients.run.rtnl import LINK, Attributes, MalformedError, Message, number, pack, text
from vethd.clients.veth import INHERITED, queues_of

_NUMBERS = {
    rtnl.IFLA_MTU: "mtu",
    rtnl.IFLA_TXQLEN: "txqueuelen",
    rtnl.IFLA_GROUP: "group",
    rtnl.IFLA_GSO_MAX_SIZE: "gso_max_size",
    rtnl.IFLA_GSO_MAX_SEGS: "gso_max_segs",
    rtnl.IFLA_GRO_MAX_SIZE: "gro_max_size",
    rtnl.IFLA_NUM_TX_QUEUES: "numtxqueues",
    rtnl.IFLA_NUM_RX_QUEUES: "numrxqueues",
}
_FLAGS = {1: "up", 0x100: "promisc", 0x200: "allmulticast", 0x1000: "multicast"}  # IFF_*
_IFF_NOARP = 0x80
_NETNS = (rtnl.IFLA_TARGET_NETNSID, rtnl.IFLA_NET_NS_FD, rtnl.IFLA_NET_NS_PID)  # the last one that is there counts
_LATER = frozenset({2, 16, rtnl.IFLA_LINKMODE, rtnl.IFLA_AF_SPEC, 63, 64})
"""IFLA_BROADCAST, _OPERSTATE, _LINKMODE, _AF_SPEC, _GSO_IPV4_MAX_SIZE, _GRO_IPV4_MAX_SIZE: the daemon does not know
them, so the kernel sets them after the pair is made. It ignores all others in a RTM_NEWLINK that makes a link."""
_IFF_LATER = 0x8020  # IFF_DYNAMIC, IFF_NOTRAILERS


class End:
    """One end: said is its attributes in the API's form, but for QUEUES.

    netns is the attribute that named its namespace and its value, None without; master is an ifindex there, 0 without.
    """

    __slots__ = ("_attributes", "_flags", "master", "netns", "said")

    def __init__(self, attributes: Attributes, index: int, flags: int, change: int) -> None:
        self.said: dict[str, object] = {}
        self.netns: tuple[int, int] | None = None
        self.master = 0
        change = change or (0xFFFFFFFF if flags else 0)
        self._attributes = [(kind, data) for kind, data in attributes if kind in _LATER]
        self._flags = flags & change & _IFF_LATER, change & _IFF_LATER
        self._take(attributes)
        self.said |= {name: bool(flags & bit) for bit, name in _FLAGS.items() if change & bit}
        if change & _IFF_NOARP:
            self.said["arp"] = not flags & _IFF_NOARP
        if self.said.get("up") is False:
            del self.said["up"]
        if index > 0:
            self.said["index"] = index

    def _take(self, attributes: Attributes) -> None:
        for kind, data in attributes:
            if kind in _NUMBERS:
                self.said[_NUMBERS[kind]] = number(data) & 0xFFFFFFFF
            elif kind == rtnl.IFLA_IFNAME and text(data):
                self.said["name"] = text(data)
            elif kind == rtnl.IFLA_ADDRESS:
                self.said["address"] = data.hex(":")
            elif kind == rtnl.IFLA_MASTER:
                self.master = number(data)
        for kind in _NETNS:
            value = rtnl.first(attributes, kind)
            if value is not None:
                self.netns = kind, number(value)

    def later(self, index: int, *, own: bool = True) -> bytes:
        """Return the payload of a RTM_SETLINK with what the kernel is to judge, b"" if there is nothing.

        index is the new link's. own False is for a peer that inherits it: it does not inherit flags.
        """
        flags, change = self._flags if own else (0, 0)
        if not change and not self._attributes:
            return b""
        return LINK.pack(0, 0, index, flags, change) + pack(self._attributes)

    def api(self) -> dict[str, object]:
        """Return the attributes as the API takes them."""
        said = dict(self.said)
        queues_of(said)
        return said


class Request:
    """A pair that is asked for: the near end, the peer (None without a description), and where the peer belongs.

    behind is the id of the namespace of IFLA_LINK_NETNSID, None without.
    """

    __slots__ = ("behind", "far", "message", "near")

    def __init__(self, message: Message) -> None:
        """Read a message of kind veth. Raises MalformedError if the kernel would refuse it."""
        attributes = message.attributes
        _, _, index, flags, change = message.link
        self.message = message
        self.near = End(attributes, index, flags, change)
        netnsid = rtnl.first(attributes, rtnl.IFLA_LINK_NETNSID)
        self.behind = number(netnsid) if netnsid is not None else None
        peer = _peer(attributes)
        self.far = End(peer[0], *peer[1]) if peer is not None else None
        if self.far is not None:
            self.far.master = 0  # veth_newlink() does not read it
            if "index" not in self.near.said:
                self.far.said.pop("index", None)

    @property
    def exclusive(self) -> bool:
        """Whether a link that exists already is an error, and not to be changed."""
        return bool(self.message.flags & rtnl.NLM_F_EXCL)

    @property
    def ends(self) -> list[End]:
        """The ends that have a description."""
        return [self.near] if self.far is None else [self.near, self.far]

    @property
    def sets_af_spec(self) -> bool:
        """Whether the near end's description has IFLA_AF_SPEC, which the kernel refuses since Linux 6.4."""
        return rtnl.first(self.message.attributes, rtnl.IFLA_AF_SPEC) is not None

    @property
    def inherits_netns(self) -> bool:
        """Whether the peer belongs in the near end's namespace: it has no description, so the near end's counts."""
        return self.far is None and self.near.netns is not None

    def body(self, near: dict[str, object], far: dict[str, object]) -> dict[str, object]:
        """Return the pair for the API; near and far are the references of the ends' namespaces, and the master."""
        said = self.near.api() | near
        peer = self.far.api() if self.far is not None else {key: said[key] for key in INHERITED if key in said}
        return said | {"peer": peer | far}


def wants_veth(message: Message) -> bool:
    """Return whether a message asks for a new veth. Raises MalformedError."""
    if message.kind != rtnl.RTM_NEWLINK or not message.flags & rtnl.NLM_F_CREATE:
        return False
    return rtnl.kind_of(message.attributes) == "veth"


def _peer(attributes: Attributes) -> tuple[Attributes, tuple[int, int, int]] | None:
    info = rtnl.first(attributes, rtnl.IFLA_LINKINFO) or b""
    data = rtnl.first(rtnl.parse(info), rtnl.IFLA_INFO_DATA)
    peer = rtnl.first(rtnl.parse(data), rtnl.VETH_INFO_PEER) if data is not None else None
    if peer is None:
        return None
    if len(peer) < rtnl.LINK.size:
        raise MalformedError
    _, _, index, flags, change = rtnl.LINK.unpack_from(peer)
    return rtnl.parse(peer[rtnl.LINK.size :]), (index, flags, change)
