"""The requested attributes of an end and of a pair, and veth's validation of both.

None always means "not set". The same structs are the API's bodies, the config's tables and the client's arguments, so
each attribute is defined once for all interfaces. A pair has the form of an `ip link add` command: the near end's
attributes, and a peer with its own.
"""

from __future__ import annotations

import errno
import re
from typing import Any, Literal

import msgspec

from vethd.model.errors import VethError

MTU_MIN = 68  # ETH_MIN_MTU
MTU_MAX_VETH = 65535  # ETH_MAX_MTU
MTU_MAX = 65521  # a TAP's limit: ETH_MAX_MTU - ETH_HLEN
NAME_MAX = 15  # IFNAMSIZ - 1
ALTNAME_MAX = 127  # ALTIFNAMSIZ - 1
ALIAS_MAX = 255  # IFALIASZ - 1
QUEUES_MAX = 256  # MAX_TAP_QUEUES
LATENCY_QUEUES = 2  # of each end of a pair with latency_queue: queue 0 is for TCP
LATENCY_QUEUE = 1  # all other frames
TXQUEUELEN = 1000  # DEFAULT_TX_QUEUE_LEN
RING = 1000
RING_MIN = 64  # one coalesced batch: veth loses nothing of such a burst
RING_MAX = 524288  # KMALLOC_MAX_SIZE / sizeof(void *): the kernel refuses a longer ring (ptr_ring_resize_multiple())
MTU = 1500  # ETH_DATA_LEN
U32_MAX = (1 << 32) - 1

AddrGenMode = Literal["eui64", "none", "stable_secret", "random"]
RxChecksum = Literal["verify", "trust"]

# the bytes that the kernel's isspace() matches; it works on bytes, whatever characters they encode
_BAD_IN_NAME = re.compile(rb"[/:\0 \t\n\v\f\r\xa0]")
_BAD_IN_ALTNAME = re.compile(rb"[/ \t\n\v\f\r\xa0]")
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2})*\Z")


class LinkSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Requested attributes of one end.

    netns names a network namespace: None is the daemon's own (the client's own in a client's call), otherwise a name of
    `ip netns`, a path, a PID, or "fd:N" if the caller sent or inherited file descriptors. name may contain one "%d". An
    empty alias, altname or master ("") removes the attribute. MAC addresses have the form "xx:xx:xx:xx:xx:xx". Lengths
    are in bytes; mtu does not include the Ethernet header. txqueuelen counts frames and limits nothing, as on veth.
    ring is the number of frames that can wait in the device while the daemon is busy or restarts; 0 is the daemon's
    setting for all pairs.
    """

    name: str | None = None
    netns: str | None = None
    address: str | None = None
    mtu: int | None = None
    txqueuelen: int | None = None
    ring: int | None = None
    queues: int | None = None
    index: int | None = None
    group: int | None = None
    alias: str | None = None
    altname: str | None = None
    master: str | None = None
    up: bool | None = None
    arp: bool | None = None
    multicast: bool | None = None
    allmulticast: bool | None = None
    promisc: bool | None = None
    addrgenmode: AddrGenMode | None = None
    gso_max_size: int | None = None
    gso_max_segs: int | None = None
    gro_max_size: int | None = None

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of an end by name, including unset ones, without a pair's own attributes."""
        return {name: getattr(self, name) for name in LinkSpec.__struct_fields__}


class PairSpec(LinkSpec, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A pair: the near end's attributes, the peer's, and the pair's own.

    peer None is a peer without a spec: it inherits the attributes that a peer inherits on veth (far_end()).
    gro None is the daemon's setting for all pairs. latency_queue gives both ends two queues, one for TCP and one for
    all other frames, which is read first.
    """

    peer: LinkSpec | None = None
    rx_checksum: RxChecksum | None = None
    gro: bool | None = None
    latency_queue: bool | None = None

    @property
    def urgent_queues(self) -> tuple[int, ...]:
        """The numbers of the queues that the engine reads before the others."""
        return (LATENCY_QUEUE,) if self.latency_queue else ()

    def own(self) -> dict[str, Any]:
        """Return the pair's own attributes by name, including unset ones."""
        return {name: getattr(self, name) for name in OWN}

    def near_end(self) -> LinkSpec:
        """Return the near end's attributes alone."""
        return LinkSpec(**self.attributes())

    def far_end(self) -> LinkSpec:
        """Return the peer's attributes, inherited ones included.

        Kernel: veth_newlink() reuses the near end's table if the request describes no peer, and rtnl_create_link()
        reads MTU, txqueuelen, queues, group and the GSO limits from it; never the MAC. ring, which the kernel does not
        have, is inherited like txqueuelen.
        """
        if self.peer is not None:
            return self.peer
        return LinkSpec(**{name: getattr(self, name) for name in _INHERITED})


_INHERITED = (
    *("netns", "mtu", "txqueuelen", "ring", "queues", "group"),
    *("gso_max_size", "gso_max_segs", "gro_max_size"),
)
OWN = ("rx_checksum", "gro", "latency_queue")
CREATE_ONLY = ("queues", "index")  # the kernel refuses to change these as well
OWN_CREATE_ONLY = ("latency_queue",)


def queue_len(txqueuelen: int | None, ring: int) -> int:
    """Return the txqueuelen to set on a TAP, in frames: it is also the length of the device's ring.

    txqueuelen is the requested value, None if there is none. On veth it limits nothing, so here it shortens no ring.
    Kernel: drivers/net/tun.c tun_queue_resize().
    """
    return min(max(txqueuelen or 0, ring), RING_MAX)


def parse_mac(text: str, op: str, ifname: str = "") -> bytes:
    """Return the 6 bytes of a MAC address, unicast and non-zero.

    Raises VethError EINVAL (not 6 bytes) or EADDRNOTAVAIL. Kernel: veth_validate(), is_valid_ether_addr().
    """
    raw = bytes(int(part, 16) for part in text.split(":")) if _MAC.match(text) else b""
    if len(raw) != 6:
        raise VethError(errno.EINVAL, op, ifname, f"address {text!r} is not 6 bytes in the form xx:xx:xx:xx:xx:xx")
    if raw[0] & 1 or not any(raw):
        raise VethError(errno.EADDRNOTAVAIL, op, ifname, f"address {text} is not a unicast MAC address")
    return raw


def check_name(name: str, op: str, *, pattern: bool = True) -> None:
    """Check a device name. It may contain one "%d" if pattern is true.

    Raises VethError ERANGE (longer than 15 bytes) or EINVAL. Kernel: dev_valid_name(), __dev_alloc_name(); ERANGE comes
    from the netlink policy.
    """
    _check_length(name, op)
    bad = not name or name in (".", "..") or bool(_BAD_IN_NAME.search(name.encode()))
    if bad or ("%" in name and not (pattern and re.fullmatch(r"[^%]*%d[^%]*", name))):
        raise VethError(errno.EINVAL, op, name, f"{name!r} is not a valid device name")


def _length(text: str, key: str, op: str, ifname: str) -> int:
    """Return the length in bytes. Raises VethError EINVAL if UTF-8 cannot encode text (a lone surrogate)."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise VethError(errno.EINVAL, op, ifname, f"{key} {text!r} is not valid UTF-8") from error


def _check_length(name: str, op: str) -> None:
    if _length(name, "name", op, name) > NAME_MAX:
        raise VethError(errno.ERANGE, op, name, f"a name has at most {NAME_MAX} bytes")


def validate_link(link: LinkSpec, op: str = "newlink", ifname: str = "") -> None:
    """Check one end's attributes; ifname is the name of a living link.

    Raises VethError with the errno that the kernel's veth returns.
    """
    _validate_values(link, op, ifname)
    if link.name is not None:
        check_name(link.name, op)


def _validate_values(link: LinkSpec, op: str, ifname: str = "") -> None:
    """Check everything except the characters of the name, which the kernel checks when it registers the device."""
    name = link.name or ifname
    _check_length(name, op)
    if link.address is not None:
        parse_mac(link.address, op, name)
    if link.mtu is not None and not MTU_MIN <= link.mtu <= MTU_MAX:
        tap = " (the kernel's veth allows 65535, a TAP does not)" if MTU_MAX < link.mtu <= MTU_MAX_VETH else ""
        raise VethError(errno.EINVAL, op, name, f"mtu {link.mtu} is outside {MTU_MIN}..{MTU_MAX}{tap}")
    _check_ranges(link, op, name)
    if link.alias is not None and _length(link.alias, "alias", op, name) > ALIAS_MAX:
        raise VethError(errno.ERANGE, op, name, f"alias is longer than {ALIAS_MAX} bytes")
    if link.altname:
        if _length(link.altname, "altname", op, name) > ALTNAME_MAX:
            raise VethError(errno.ERANGE, op, name, f"altname is longer than {ALTNAME_MAX} bytes")
        if _BAD_IN_ALTNAME.search(link.altname.encode()):
            raise VethError(errno.EINVAL, op, name, f"{link.altname!r} is not a valid altname")
    if link.master:
        check_name(link.master, op, pattern=False)
    _no_nul(link, op, name)


def validate_pair(pair: PairSpec, op: str = "newlink") -> None:
    """Check both ends before anything is created. If there are several faults, report the one that the kernel reports.

    rtnl_newlink() checks the near end's values, the peer's values, then creates the peer, then the near end. The peer
    has no peer of its own when it is created, so `up` on it is ENOTCONN, as from veth_open(); a caller brings the peer
    up after the pair is made. Only the kernel can check whether a name is taken (EEXIST). Raises VethError.
    """
    near, far = pair.near_end(), pair.far_end()
    _validate_values(near, op)
    validate_link(far, op)
    if far.up:
        raise VethError(errno.ENOTCONN, op, far.name or "", "the peer cannot be created up: bring it up afterwards")
    validate_link(near, op)
    check_latency_queue(pair, op)


def check_latency_queue(pair: PairSpec, op: str = "newlink") -> None:
    """Check that a pair with latency_queue sets no number of queues. Raises VethError EINVAL."""
    if pair.latency_queue and any((end.queues or 1) > 1 for end in (pair.near_end(), pair.far_end())):
        raise VethError(errno.EINVAL, op, pair.name or "", "latency_queue cannot be combined with queues > 1")


def _check_ranges(link: LinkSpec, op: str, name: str) -> None:
    if link.ring and not RING_MIN <= link.ring <= RING_MAX:
        reason = f"ring {link.ring} is outside {RING_MIN}..{RING_MAX} and is not 0, the daemon's default"
        raise VethError(errno.EINVAL, op, name, reason)
    ranges = (
        ("txqueuelen", link.txqueuelen, 0, (1 << 31) - 1),
        ("queues", link.queues, 1, QUEUES_MAX),
        ("index", link.index, 1, (1 << 31) - 1),
        ("group", link.group, 0, U32_MAX),
        ("gso_max_size", link.gso_max_size, 0, U32_MAX),
        ("gso_max_segs", link.gso_max_segs, 0, U32_MAX),
        ("gro_max_size", link.gro_max_size, 0, U32_MAX),
    )
    for key, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise VethError(errno.EINVAL, op, name, f"{key} {value} is outside {low}..{high}")


def _no_nul(link: LinkSpec, op: str, name: str) -> None:
    for key in ("netns", "alias", "altname", "master"):
        if "\0" in (getattr(link, key) or ""):
            raise VethError(errno.EINVAL, op, name, f"{key} contains a NUL byte")
