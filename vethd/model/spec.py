"""What a caller asks for: the attributes of an end, a pair of them, and veth's validation of both.

None always means "not said". The same structs are the API's bodies, the config's tables and the client's
arguments, so an attribute is spelled once for all doors. A pair reads as `ip link add` does: the near end's
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
TXQUEUELEN = 1000  # DEFAULT_TX_QUEUE_LEN
MTU = 1500  # ETH_DATA_LEN
U32_MAX = (1 << 32) - 1

AddrGenMode = Literal["eui64", "none", "stable_secret", "random"]
RxChecksum = Literal["verify", "trust"]

# the kernel's isspace(), byte by byte, whatever the characters are
_BAD_IN_NAME = re.compile(rb"[/:\0 \t\n\v\f\r\xa0]")
_BAD_IN_ALTNAME = re.compile(rb"[/ \t\n\v\f\r\xa0]")
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2})*\Z")


class LinkSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Attributes of one end, as asked for.

    netns names a network namespace: None is the daemon's own (a client's own, where a client asks), else a
    name of `ip netns`, a path, a PID, or "fd:N" where the caller sent or inherited file descriptors.
    name may hold one "%d". alias, altname and master "" take the attribute away. MACs are "xx:xx:xx:xx:xx:xx".
    Lengths are bytes; mtu counts no Ethernet header; txqueuelen counts frames.
    """

    name: str | None = None
    netns: str | None = None
    address: str | None = None
    mtu: int | None = None
    txqueuelen: int | None = None
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
        """Return the attributes of an end, said or not, by name; what a pair has besides is left out."""
        return {name: getattr(self, name) for name in LinkSpec.__struct_fields__}


class PairSpec(LinkSpec, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A pair: the near end's attributes, the peer's, and the pair's own.

    peer None is an end never named: it inherits what the kernel's veth lets it inherit (far_end()).
    gro unsaid is as the daemon has it for all pairs.
    """

    peer: LinkSpec | None = None
    rx_checksum: RxChecksum | None = None
    gro: bool | None = None

    def own(self) -> dict[str, Any]:
        """Return what the pair has besides its ends, said or not, by name."""
        return {name: getattr(self, name) for name in OWN}

    def near_end(self) -> LinkSpec:
        """Return the near end's attributes alone."""
        return LinkSpec(**self.attributes())

    def far_end(self) -> LinkSpec:
        """Return the peer's attributes, inherited ones included.

        Kernel: veth_newlink() reuses the near end's table where no peer was described, and
        rtnl_create_link() reads MTU, txqueuelen, queues, group and the GSO limits from it; never the MAC.
        """
        if self.peer is not None:
            return self.peer
        return LinkSpec(**{name: getattr(self, name) for name in _INHERITED})


_INHERITED = ("netns", "mtu", "txqueuelen", "queues", "group", "gso_max_size", "gso_max_segs", "gro_max_size")
OWN = ("rx_checksum", "gro")
CREATE_ONLY = ("queues", "index")  # the kernel, too, refuses to change these


def parse_mac(text: str, op: str, ifname: str = "") -> bytes:
    """Return the 6 bytes of a MAC address, unicast and non-zero.

    Raises VethError EINVAL (not 6 bytes) or EADDRNOTAVAIL. Kernel: veth_validate(), is_valid_ether_addr().
    """
    raw = bytes(int(part, 16) for part in text.split(":")) if _MAC.match(text) else b""
    if len(raw) != 6:
        raise VethError(errno.EINVAL, op, ifname, f"address {text!r} is not 6 bytes as xx:xx:xx:xx:xx:xx")
    if raw[0] & 1 or not any(raw):
        raise VethError(errno.EADDRNOTAVAIL, op, ifname, f"address {text} is not a unicast MAC address")
    return raw


def check_name(name: str, op: str, *, pattern: bool = True) -> None:
    """Check a device name, which may hold one "%d" where pattern is true.

    Raises VethError ERANGE (longer than 15 bytes) or EINVAL. Kernel: dev_valid_name(),
    __dev_alloc_name(); ERANGE is what the netlink policy answers.
    """
    _check_length(name, op)
    bad = not name or name in (".", "..") or bool(_BAD_IN_NAME.search(name.encode()))
    if bad or ("%" in name and not (pattern and re.fullmatch(r"[^%]*%d[^%]*", name))):
        raise VethError(errno.EINVAL, op, name, f"{name!r} is not a valid device name")


def _length(text: str, key: str, op: str, ifname: str) -> int:
    """Return the length in bytes. Raises VethError EINVAL where text is none that UTF-8 can hold (a lone surrogate)."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise VethError(errno.EINVAL, op, ifname, f"{key} {text!r} is not UTF-8") from error


def _check_length(name: str, op: str) -> None:
    if _length(name, "name", op, name) > NAME_MAX:
        raise VethError(errno.ERANGE, op, name, f"a name has at most {NAME_MAX} bytes")


def validate_link(link: LinkSpec, op: str = "newlink", ifname: str = "") -> None:
    """Check one end's attributes; ifname is what a living link is called.

    Raises VethError with the errno that the kernel's veth answers.
    """
    _validate_values(link, op, ifname)
    if link.name is not None:
        check_name(link.name, op)


def _validate_values(link: LinkSpec, op: str, ifname: str = "") -> None:
    """Check all but the characters of the name, which the kernel looks at when it registers the device."""
    name = link.name or ifname
    _check_length(name, op)
    if link.address is not None:
        parse_mac(link.address, op, name)
    if link.mtu is not None and not MTU_MIN <= link.mtu <= MTU_MAX:
        tap = " (the kernel's veth takes 65535, a TAP does not)" if MTU_MAX < link.mtu <= MTU_MAX_VETH else ""
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
    """Check both ends before anything is created; of several faults the one that rtnl_newlink() meets first.

    That is the near end's values, the peer's, then the peer as it is made, then the near end. The peer has nobody
    to talk to when it is made, so `up` on it is ENOTCONN, as veth_open() answers; who wants it up says so once the
    pair is made. Whether a name is taken (EEXIST) only the kernel knows. Raises VethError.
    """
    near, far = pair.near_end(), pair.far_end()
    _validate_values(near, op)
    validate_link(far, op)
    if far.up:
        raise VethError(errno.ENOTCONN, op, far.name or "", "up on the peer, which is made before the near end")
    validate_link(near, op)


def _check_ranges(link: LinkSpec, op: str, name: str) -> None:
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
            raise VethError(errno.EINVAL, op, name, f"{key} holds a NUL byte")
