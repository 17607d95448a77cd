"""What ethtool(8) can ask and set, by its netlink family and by SIOCETHTOOL: a part of tests/lib/shown.py.

Numbers from include/uapi/linux/ethtool_netlink.h and ethtool.h.
"""

from __future__ import annotations

import struct

from tests.lib import ethtool
from tests.lib.genl import Genl
from tests.lib.lab import End
from tests.lib.rtnl import NLA_F_NESTED, nest, text
from tests.lib.shown_values import Shown, leaves, name_of, told, value

_HEADER, _HEADER_DEV_NAME = 1 | NLA_F_NESTED, 2  # ETHTOOL_A_*_HEADER of every request and answer
_NETLINK_GETS = {  # ETHTOOL_MSG_*_GET
    "strset": 1,
    "linkinfo": 2,
    "linkmodes": 4,
    "linkstate": 6,
    "debug": 7,
    "wol": 9,
    "privflags": 13,
    "rings": 15,
    "channels": 17,
    "coalesce": 19,
    "pause": 21,
    "eee": 23,
    "tsinfo": 25,
    "tunnel_info": 28,
    "fec": 29,
    "module": 34,
    "pse": 36,
    "rss": 38,
    "plca": 39,
    "mm": 42,
}
_IOCTL_GETS = {  # command and size, of what netlink does not tell
    "registers": (0x04, 4096),
    "eeprom": (0x0B, 32),
    "rx checksums": (0x14, 8),
    "tx checksums": (0x16, 8),
    "scatter-gather": (0x18, 8),
    "self-test": (0x1A, 4096),
    "tso": (0x1E, 8),
    "udp fragmentation": (0x21, 8),
    "gso": (0x23, 8),
    "flags": (0x25, 8),
    "rx flow hash": (0x29, 192),
    "gro": (0x2B, 8),
    "rx rings": (0x2D, 192),
    "rx rules": (0x2E, 192),
    "rx rules in full": (0x30, 4096),
    "dump": (0x3F, 20),
    "module": (0x42, 44),
    "rx-copybreak": (0x48, 64),
    "phy statistics": (0x4A, 4096),
}
_IOCTL_SETS = {  # command and what follows it
    "wake on lan": (0x06, struct.pack("=II8x", 0, 0)),
    "message level 1": (0x08, struct.pack("=I", 1)),
    "message level 0": (0x08, struct.pack("=I", 0)),
    "restart autonegotiation": (0x09, bytes(60)),
    "rx frames to coalesce 1": (0x0F, struct.pack("=II80x", 0, 1)),
    "rx frames to coalesce 0": (0x0F, bytes(88)),
    "rx microseconds to coalesce": (0x0F, struct.pack("=I84x", 5)),
    "ring 100": (0x11, struct.pack("=16xI8xI", 100, 100)),
    "pause": (0x13, struct.pack("=III", 0, 1, 1)),
    "rx checksums off": (0x15, struct.pack("=I", 0)),
    "rx checksums on": (0x15, struct.pack("=I", 1)),
    "identify": (0x1C, struct.pack("=I", 1)),
    "private flags": (0x28, struct.pack("=I", 1)),
    "rx flow hash": (0x2A, struct.pack("=II184x", 1, 3)),
    "reset": (0x34, struct.pack("=I", 1)),
    "channels rx 1 tx 1": (0x3D, struct.pack("=16xIIII", 1, 1, 0, 0)),
    "channels rx 2 tx 2": (0x3D, struct.pack("=16xIIII", 2, 2, 0, 0)),
    "channels combined 1": (0x3D, struct.pack("=16xIIII", 0, 0, 0, 1)),
    "eee": (0x45, bytes(80)),
    "rx-copybreak": (0x49, struct.pack("=IIII", 1, 4, 4, 0)),
    "fec": (0x51, struct.pack("=III", 0, 2, 0)),
}
_GLINKSETTINGS, _SLINKSETTINGS, _WORDS_AT = 0x4C, 0x4D, 15
_SETTINGS = {  # speed, duplex, port, autoneg
    "speed 1000": (1000, 1, 0, 0),
    "half duplex": (10000, 0, 0, 0),
    "port fibre": (10000, 1, 3, 0),
    "autoneg on": (10000, 1, 0, 1),
    "speed 10000": (10000, 1, 0, 0),
}


def _ask_by_netlink(end: End) -> Shown:
    found: Shown = {}
    with Genl(end.netns, "ethtool") as family:
        for name, command in _NETLINK_GETS.items():
            try:
                answers = family.request(command, [(_HEADER, nest([(_HEADER_DEV_NAME, text(end.name))]))])
            except OSError as error:
                found[f"ethtool {name}"] = name_of(error)
                continue
            for answer in answers:
                found |= {f"ethtool {name} {key}": says for key, says in leaves(answer) if not key.startswith("1.")}
    return found


def _ask_by_ioctl(end: End) -> Shown:
    data = _call(end, ethtool.GDRVINFO, bytes(192))
    fields = {"driver": data[:32], "version": data[32:64], "bus": data[96:128]}
    found = {f"ioctl {name}": field.split(b"\0")[0].decode() for name, field in fields.items()}
    found["ioctl statistics"] = str(len(ethtool.strings(end.netns, end.name, ethtool.STRINGS_STATS)))
    for name, (command, size) in _IOCTL_GETS.items():
        found[f"ioctl {name}"] = told(lambda asked, size: value(_call(end, asked, bytes(size - 4))), command, size)
    return found


def _features(end: End) -> Shown:
    """Tell every offload switch."""
    return {f"feature {name}": _word(it) for name, it in ethtool.features(end.netns, end.name).items()}


def _switch(end: End) -> Shown:
    """Turn every switch that can be turned, and back; tell which others went with it."""
    found: Shown = {}
    before = ethtool.features(end.netns, end.name)
    for name, feature in before.items():
        if feature.fixed:
            continue
        ethtool.set_feature(end.netns, end.name, name, not feature.on)
        after = ethtool.features(end.netns, end.name)
        ethtool.set_feature(end.netns, end.name, name, feature.on)
        assert after[name].on is not feature.on, name
        if others := [one for one in after if after[one] != before[one] and one != name]:
            found[f"switch {name}"] = " ".join(sorted(others))
    assert ethtool.features(end.netns, end.name) == before
    return found


def _set(end: End) -> Shown:
    """Set by ioctl; tell the errno, or that it was taken."""
    requests = dict(_IOCTL_SETS)
    words = -_call(end, _GLINKSETTINGS, bytes(44))[_WORDS_AT - 4 :][0] % 256  # asked with none, it tells how many
    for name, (speed, duplex, port, autoneg) in _SETTINGS.items():
        modes = struct.pack("=IBBBBBBBB", speed, duplex, port, 0, autoneg, 0, 0, 0, words)
        requests[name] = (_SLINKSETTINGS, modes + bytes(32 + 12 * words))
    found: Shown = {}
    for name, (command, rest) in requests.items():
        found[f"ioctl set {name}"] = told(lambda asked, rest: _call(end, asked, rest) and "taken", command, rest)
    return found


LOOKS = (_ask_by_netlink, _ask_by_ioctl, _features, _switch, _set)
"""What there is to look at, in this order: asking first."""


def _call(end: End, command: int, rest: bytes) -> bytes:
    """Make the ioctl; return what the kernel wrote behind the command."""
    return ethtool.call(end.netns, end.name, struct.pack("=I", command) + rest)[4:]


def _word(feature: ethtool.Feature) -> str:
    return ("on" if feature.on else "off") + (", fixed" if feature.fixed else "")
