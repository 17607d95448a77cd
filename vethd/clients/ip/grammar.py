"""Parse `ip link add` and `ip link delete`: iproute2's words, their order of comparison and their abbreviations.

A line is parsed for the near end first, then for the peer. A line that iproute2 would reject raises UsageError; the
message comes from the real ip. Options without effect on a new veth (measured: alias, carrier, protodown, parentdev,
link, vf, xdp, protodown_reason; of the peer also master and, alone, index) are parsed and ignored. Options that the
daemon does not know are kept, and the real ip applies them after the pair is made (add.py).
"""

from __future__ import annotations

from vethd.clients.ip.line import abbreviates
from vethd.clients.ip.values import UsageError, group, integer, leading, lladdr, on_off, unsigned
from vethd.clients.veth import NAME_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

GSO_MAX_SEGS = 65535
ALIAS_MAX = 255
NAME_LONGEST = 127  # of an altname: iproute2 accepts one where it expects a device's name

# in iproute2's order of comparison; "=": cannot be abbreviated
_TABLE = """
up= down= name= index= link address broadcast brd= txqueuelen qlen= txqlen mtu= xdpgeneric= xdpdrv= xdpoffload= xdp=
netns= multicast= allmulticast= promisc= trailers= arp= carrier= vf= master vrf= nomaster dynamic type alias group=
mode= state= numtxqueues numrxqueues addrgenmode link-netns link-netnsid protodown= protodown_reason= gso_max_size=
gso_max_segs= gro_max_size= gso_ipv4_max_size= gro_ipv4_max_size= parentdev= help
"""
_WORDS = tuple(_TABLE.split())
_SYNONYMS = {"brd": "broadcast", "qlen": "txqueuelen", "txqlen": "txqueuelen", "vrf": "master"}
_LATER = frozenset({"broadcast", "dynamic", "gro_ipv4_max_size", "gso_ipv4_max_size", "mode", "state", "trailers"})
"""Options that the daemon does not know."""
_LONG = frozenset({"protodown_reason", "vf", "xdp", "xdpdrv", "xdpgeneric", "xdpoffload"})
"""Options of several words, which the kernel ignores on a new link."""
_OF_VF = (
    *("mac", "vlan", "qos", "proto", "rate", "max_tx_rate", "min_tx_rate"),
    *("spoofchk", "query_rss", "trust", "state", "node_guid", "port_guid"),
)
_ONCE = frozenset({"name", "txqueuelen", "mtu", "netns", "group", "numtxqueues", "numrxqueues"})
_FLAGS = frozenset({"multicast", "allmulticast", "promisc", "arp"})


class NotOursError(Exception):
    """The line is valid, and about another kind of link."""


class UnsupportedError(Exception):
    """The line has an addrgenmode, which the kernel since Linux 6.4 refuses for a link that has no IPv6 state yet."""

    def __str__(self) -> str:
        """Return the kernel's message."""
        return "RTNETLINK answers: Address family not supported by protocol\n"


class End:
    """One end in a line: its attributes in the API's form, and the words that must be looked up first.

    later holds the options that the real ip applies after the pair is made. doubtful: the real ip must check the line
    first, as its validity depends on devices of the namespace or on iproute2's version.
    """

    __slots__ = ("dev", "doubtful", "index", "kind", "later", "link_netns", "name", "netns", "rest", "said", "seen")

    def __init__(self) -> None:
        self.said: dict[str, object] = {}
        self.name: str | None = None
        self.dev: str | None = None
        self.index: int | None = None
        self.netns: str | None = None
        self.link_netns: str | None = None
        self.later: list[str] = []
        self.doubtful = False
        self.kind: str | None = None
        self.rest: list[str] = []
        self.seen: set[str] = set()

    def known_as(self) -> str | None:
        """Return the name that the line gives the end. Raises UsageError if it gives two."""
        if self.name is not None and self.dev is not None and self.name != self.dev:
            raise UsageError(self.name)
        return self.name if self.name is not None else self.dev


def read_end(words: list[str]) -> End:
    """Parse one end's words up to its type, which takes one word more. Raises UsageError, UnsupportedError."""
    end, at = End(), 0
    while at < len(words):
        word = _find(words[at])
        if not word:
            at += words[at] == "dev"
            _device(end, words[at] if at < len(words) else "")
        elif word in ("up", "down"):
            end.said["up"] = word == "up"
        elif word == "nomaster":
            end.said.pop("master", None)
        elif word == "addrgenmode":
            raise UnsupportedError
        elif word in _LONG:
            end.doubtful = True
            at = _past(end, word, words, at)
        else:
            at += 1
            if word == "help" or at == len(words):
                raise UsageError(word)
            if word == "type":
                end.kind, end.rest = words[at], words[at + 1 :]
                break
            _take(end, _SYNONYMS.get(word, word), words[at])
        at += 1
    return end


def read_add(words: list[str]) -> tuple[End, End | None]:
    """Parse the words after `link add`: the near end, and the peer if it is described.

    Raises NotOursError (another type), UsageError, UnsupportedError.
    """
    try:
        near = read_end(words)
    except UnsupportedError:
        if _type_of(words) != "veth":
            raise NotOursError from None
        raise
    if near.kind != "veth":
        raise NotOursError
    if near.known_as() is None and "group" in near.said:
        raise UsageError("group")
    if not near.rest:
        return near, None
    if near.rest[0] != "peer":
        raise UsageError(near.rest[0])
    peer = read_end(near.rest[1:])
    if peer.kind is not None or (peer.known_as() is None and "group" in peer.said):
        raise UsageError("type")
    return near, peer


def read_delete(words: list[str]) -> str:
    """Return the device that `link delete` names. Raises UsageError if the line has other words than a type."""
    if words and words[0] in ("dev", "name"):
        words = words[1:]
    if not words or (words[1:] and not (len(words) == 3 and _find(words[1]) == "type")):
        raise UsageError("dev")
    return words[0]


def _type_of(words: list[str]) -> str:
    """Guess the type of a line that could not be parsed completely."""
    return words[words.index("type") + 1] if "type" in words[:-1] else ""


def _find(word: str) -> str:
    """Return the full word of an option; "" if the word is not an option but a device's name."""
    for row in _WORDS:
        whole = row.rstrip("=")
        if word == whole or (whole == row and abbreviates(word, whole)):
            return whole
    return ""


def _past(end: End, word: str, words: list[str], at: int) -> int:
    """Return the position of the last word that belongs to the option at position at."""
    if word == "protodown_reason":
        return at + 2
    if word == "vf":
        if end.dev is end.name:  # here iproute2 drops a device's name that came from `name`
            end.dev = None
        at += 1
        while at + 1 < len(words) and any(abbreviates(words[at + 1], of_vf) for of_vf in _OF_VF):
            at += 2
        return at
    at += 1 if at + 2 == len(words) else 2  # "off" ends the line, or "object FILE"
    for said, length in (("section", 2), ("program", 2), ("verbose", 1)):
        following = words[at + 1] if at + 1 < len(words) else ""
        if following == said or (said != "program" and abbreviates(following, said)):
            at += length
    return at


def _device(end: End, name: str) -> None:
    if end.dev is not end.name:
        raise UsageError(name)
    _check_name(name, NAME_LONGEST)
    end.dev = name


def _check_name(name: str, longest: int) -> None:
    if not name or len(name.encode("utf-8", "surrogateescape")) > longest:
        raise UsageError(name)
    if any(char in "/ \t\n\v\f\r" for char in name):
        raise UsageError(name)


def _take(end: End, word: str, value: str) -> None:
    """Store one option's value. Raises UsageError, also if the option may occur only once and occurs again."""
    if word in _ONCE and word in end.seen:
        raise UsageError(word)
    end.seen.add(word)
    if word in _FLAGS:
        end.said[word] = on_off(value)
    elif word in _LATER:
        end.doubtful = True
        end.later += (word, value)
    elif word in _NUMBERS:
        end.said[word] = _NUMBERS[word](value)
    else:
        _take_word(end, word, value)


def _take_word(end: End, word: str, value: str) -> None:
    match word:
        case "name":
            _check_name(value, NAME_MAX)
            end.name = value
            end.dev = value if end.dev is None else end.dev
        case "index" if not end.index and leading(value) > 0:
            end.index = leading(value)
        case "link":
            end.doubtful = True
        case "master":
            end.doubtful = True
            end.said["master"] = value
        case "netns":
            end.netns = value
        case "link-netns" | "link-netnsid" if end.link_netns is None:
            end.link_netns = value if word == "link-netns" else f"id {integer(value)}"
        case "alias" if len(value.encode("utf-8", "surrogateescape")) <= ALIAS_MAX:
            pass
        case "carrier" | "protodown":
            on_off(value)
        case "parentdev":
            pass
        case _:
            raise UsageError(value)


_NUMBERS: dict[str, Callable[[str], object]] = {
    "address": lladdr,
    "txqueuelen": integer,
    "mtu": integer,
    "group": group,
    "numtxqueues": integer,
    "numrxqueues": integer,
    "gso_max_size": unsigned,
    "gso_max_segs": lambda text: unsigned(text, GSO_MAX_SEGS),
    "gro_max_size": unsigned,
}
