"""Everything that a device shows and lets one set, as text by a name: sysfs, rtnetlink, ethtool, netdev, sysctls.

    "sysfs speed": "10000"      "feature rx-gro": "on"      "ioctl set channels rx 1 tx 1": "EINVAL"

What is each device's own (address, index, counters) is left out or told in words, so that two devices of one driver
show the same. An error is told by its errno.
"""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path

from tests.lib import rtnl, shown_ethtool
from tests.lib.genl import Genl
from tests.lib.lab import End
from tests.lib.rtnl import Rtnl, ifinfomsg, iter_attrs, nest, parse_attrs, text, u32
from tests.lib.shown_values import Shown, leaves, told, value
from tests.lib.sysfs import in_sysfs

IFLA_STATS = 7
# link attributes that are a device's own: address, name, counters, and what its user calls it
_OWN_LINK = {
    rtnl.IFLA_ADDRESS,
    rtnl.IFLA_IFNAME,
    IFLA_STATS,
    rtnl.IFLA_IFALIAS,
    rtnl.IFLA_STATS64,
    rtnl.IFLA_PROP_LIST,
}
_LINK_NAMES = {
    rtnl.IFLA_LINK: "link",
    rtnl.IFLA_QDISC: "qdisc",
    rtnl.IFLA_LINKINFO: "linkinfo",
    rtnl.IFLA_LINK_NETNSID: "link_netnsid",
    51: "max_mtu",
    59: "tso_max_size",
}
_OWN_FILES = ("address", "ifindex", "iflink", "uevent", "ifalias")
_NOT_WRITTEN = ("uevent", "ifalias", "carrier")  # the carrier is test_carrier.py's


def everything(end: End) -> Shown:
    """Read all that the device shows, then set all that can be set. It is another device afterwards."""
    found: Shown = {}
    for look in (_sysfs, _link, _netdev, _sysctls, *shown_ethtool.LOOKS):
        found |= look(end)
    return found


def _sysfs(end: End) -> Shown:
    """Read every file, and write into each that can be written what it says already."""

    def look(net: Path) -> Shown:
        found: Shown = {}
        for path in sorted((net / end.name).rglob("*")):
            name = str(path.relative_to(net / end.name))
            if path.is_symlink() or path.is_dir() or name in _OWN_FILES or name.startswith("statistics/"):
                found[f"sysfs {name}"] = "there"
                continue
            says = found[f"sysfs {name}"] = told(lambda file: file.read_text().strip(), path)
            if path.stat().st_mode & stat.S_IWUSR and name not in _NOT_WRITTEN:
                found[f"sysfs write {name}"] = told(lambda file, says: file.write_text(says) and "taken", path, says)
        return found

    return in_sysfs(end.netns, look)


def _link(end: End) -> Shown:
    """Read RTM_GETLINK."""
    with Rtnl(end.netns) as sock:
        body = sock.request(rtnl.RTM_GETLINK, 0, ifinfomsg() + nest([(rtnl.IFLA_IFNAME, text(end.name))]))
    found = {"link type": body[2:4].hex(), "link flags": body[8:12].hex()}
    for kind, payload in iter_attrs(body[16:]):
        name = f"link {_LINK_NAMES.get(kind, kind)}"
        if kind == rtnl.IFLA_LINKINFO:
            info = parse_attrs(payload)
            found[f"{name} kind"] = info[rtnl.IFLA_INFO_KIND].rstrip(b"\0").decode()
            found[f"{name} data"] = "there" if rtnl.IFLA_INFO_DATA in info else "none"
        elif kind == rtnl.IFLA_LINK:
            found[name] = "there"
        elif kind == rtnl.IFLA_AF_SPEC:  # what is in it are sysctls and counters
            found[name] = " ".join(str(family) for family, _ in iter_attrs(payload))
        elif kind not in _OWN_LINK:
            found[name] = value(payload)
    return found


def _netdev(end: End) -> Shown:
    """Ask the netdev family, where there is one (Linux 6.3), for XDP's features and for NAPIs."""
    found: Shown = {}
    with suppress(FileNotFoundError), Genl(end.netns, "netdev") as family:
        index = u32(end.link.ifindex)
        for answer in family.request(1, [(1, index)]):
            found |= {f"netdev {name}": says for name, says in leaves(answer) if name != "1"}
        found["netdev napis"] = told(lambda: str(len(family.request(11, [(1, index)], dump=True))))
    return found


def _sysctls(end: End) -> Shown:
    """Read net.*.conf.X and net.*.neigh.X."""

    def look() -> Shown:
        found: Shown = {}
        for tree in ("ipv4/conf", "ipv4/neigh", "ipv6/conf", "ipv6/neigh"):
            for path in sorted(Path("/proc/sys/net", tree, end.name).iterdir()):
                found[f"sysctl {tree} {path.name}"] = told(lambda file: file.read_text().strip(), path)
        return found

    return end.netns.run(look)
