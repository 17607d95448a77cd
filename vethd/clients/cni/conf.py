"""The input from the runtime: the environment, and the network's configuration on stdin.

Fields of the reference plugins bridge and ptp are read as these plugins read them. Unknown fields are ignored, as by
the reference plugins.
"""

from __future__ import annotations

import posix

from vethd.clients.cni import text
from vethd.clients.cni.errors import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    IO_FAILURE,
    CniError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}
COMMANDS = ("ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION")
_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
_FLAGS = (
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "hairpinMode",
    "promiscMode",
    "enabledad",
    "macspoofchk",
    "portIsolation",
    "disableContainerInterface",
    "preserveDefaultVlan",
)
_OF_BRIDGES = ("macspoofchk", "portIsolation", "disableContainerInterface")  # the reference ptp ignores them
_BACKENDS = ("nftables", "iptables")
_STDIN_MAX = 1 << 20
_VLAN_MAX = 4094
_IFNAME_MAX = 15
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_BLANK = " \t\n\v\f\r"


class Env:
    """The CNI_* variables of one call, checked; netns is "" if it is not set."""

    def __init__(self) -> None:
        """Read the variables. Raises CniError 4, which names them."""
        said = {key: get(key) for key in ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")}
        self.command = said["CNI_COMMAND"]
        if self.command and self.command not in COMMANDS:
            raise CniError(BAD_ENVIRONMENT, f"unknown CNI_COMMAND: {self.command}")
        missing = [key for key in ("CNI_COMMAND", *_NEEDS.get(self.command, ())) if not said[key]]
        if missing:
            raise CniError(BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
        self.container = said["CNI_CONTAINERID"]
        self.netns = said["CNI_NETNS"]
        self.ifname = said["CNI_IFNAME"]
        if self.command in _NEEDS:
            if not is_word(self.container):
                raise CniError(BAD_ENVIRONMENT, f"CNI_CONTAINERID: {self.container!r} is not a valid container ID")
            wrong = self.ifname in (".", "..") or any(char in "/:" + _BLANK for char in self.ifname)
            if wrong or len(self.ifname.encode("utf-8", "surrogateescape")) > _IFNAME_MAX:
                raise CniError(BAD_ENVIRONMENT, f"CNI_IFNAME: {self.ifname!r} is not a valid interface name")


class Conf:
    """One network's configuration, checked. raw is the parsed object, data its bytes, which IPAM gets."""

    def __init__(self, data: bytes, command: str) -> None:
        """Parse data, the configuration of one call of command. Raises CniError."""
        raw = read(data)
        self.data = data
        self.raw = raw
        self.version = version_of(raw)
        since = SINCE.get(command)
        if since and VERSIONS.index(self.version) < VERSIONS.index(since):
            raise CniError(INCOMPATIBLE_VERSION, f"config version {self.version} does not allow {command}")
        self.name = typed(raw, "name", str, "")
        if not is_word(self.name):
            raise CniError(
                BAD_CONFIG, f"name: {self.name!r} is not a valid network name" if self.name else "name is missing"
            )
        self.mode = typed(raw, "mode", str, "bridge")
        if self.mode not in ("bridge", "ptp", "bandwidth"):
            raise CniError(BAD_CONFIG, f'mode: {self.mode!r} is not "bridge", "ptp" or "bandwidth"')
        self.flags = {key: typed(raw, key, bool, default=False) for key in _FLAGS}
        self.bridge = typed(raw, "bridge", str, "") or "cni0"
        self.mtu = typed(raw, "mtu", int, 0)
        self.vlan = typed(raw, "vlan", int, 0)
        self.trunk = [pair for item in typed(raw, "vlanTrunk", list, []) for pair in _trunk(item)]
        self.masq_backend = typed(raw, "ipMasqBackend", str, "")
        self.socket = typed(raw, "socket", str, "")
        self.ipam = typed(typed(raw, "ipam", dict, {}), "type", str, "")
        self.dns = typed(raw, "dns", dict, {})
        self.prev: dict[str, Any] | None = typed(raw, "prevResult", dict, None)
        self._check()

    def _check(self) -> None:
        self.flags["isGateway"] |= self.flags["isDefaultGateway"]
        if self.mode != "bridge":
            self.flags |= dict.fromkeys(_OF_BRIDGES, False)
        if self.flags["disableContainerInterface"] and self.ipam:
            raise CniError(
                BAD_CONFIG, "disableContainerInterface cannot be combined with ipam: the interface stays down"
            )
        if self.masq_backend and self.masq_backend not in _BACKENDS:
            raise CniError(BAD_CONFIG, f"ipMasqBackend: {self.masq_backend!r} is neither nftables nor iptables")
        if self.flags["hairpinMode"] and self.flags["promiscMode"]:
            raise CniError(BAD_CONFIG, "hairpinMode and promiscMode cannot be combined")
        if not 0 <= self.vlan <= _VLAN_MAX:
            raise CniError(BAD_CONFIG, f"vlan: {self.vlan} is outside 0..{_VLAN_MAX}")
        if self.mtu < 0:
            raise CniError(BAD_CONFIG, f"mtu: {self.mtu} is negative")
        if self.mode == "ptp" and not self.ipam:
            raise CniError(BAD_CONFIG, "ipam is missing: mode ptp needs addresses")

    def mac(self) -> str | None:
        """Return the MAC that is requested for the container's end, None if there is none. Raises CniError.

        runtimeConfig.mac takes precedence over args.cni.mac, and that over MAC= in CNI_ARGS.
        """
        args = typed(typed(self.raw, "args", dict, {}), "cni", dict, {})
        runtime = typed(self.raw, "runtimeConfig", dict, {})
        said = dict(pair.partition("=")[::2] for pair in get("CNI_ARGS").split(";") if pair)
        return typed(runtime, "mac", str, "") or typed(args, "mac", str, "") or said.get("MAC") or None


def get(key: str) -> str:
    """Return a variable of the environment, "" if it is not set."""
    return posix.environ.get(key.encode(), b"").decode("utf-8", "surrogateescape")


def is_word(word: str) -> bool:
    """Return whether word is a valid CNI name of a network or ID of a container."""
    return bool(word) and word[0] not in "_.-" and _WORD.issuperset(word)


def read_stdin() -> bytes:
    """Read all of stdin. Raises CniError 5."""
    data = b""
    try:
        while more := posix.read(0, 1 << 16):
            data += more
            if len(data) > _STDIN_MAX:
                raise CniError(IO_FAILURE, "stdin: the configuration is longer than 1 MiB")
    except OSError as error:
        raise CniError(IO_FAILURE, f"stdin: {error.strerror}") from None
    return data


def read(data: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises CniError 6."""
    try:
        raw = text.decode(data)
    except ValueError as error:
        raise CniError(DECODING_FAILURE, f"failed to load netconf: {error}") from None
    if not isinstance(raw, dict):
        raise CniError(DECODING_FAILURE, "failed to load netconf: it is not a JSON object")
    return raw


def version_of(raw: dict[str, Any]) -> str:
    """Return the configuration's version of the specification. Raises CniError 1 if it is not supported."""
    said = raw.get("cniVersion")
    if said not in VERSIONS:
        ours = text.encode(list(VERSIONS))
        msg = f"incompatible CNI versions; config is {text.encode(said or '')}, plugin supports {ours}"
        raise CniError(INCOMPATIBLE_VERSION, msg)
    return str(said)


def typed(raw: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    """Return a field, or default if it is absent or null. Raises CniError 7 if it has another type."""
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {
            str: "a string",
            bool: "true or false",
            int: "a whole number",
            dict: "an object",
            list: "a list",
        }
        raise CniError(BAD_CONFIG, f"{key}: {text.encode(value)} is not {names[kind]}")
    return value


def _trunk(item: Any) -> list[tuple[int, int]]:
    """Return the ranges (first, last) of one item of vlanTrunk: a range, one VLAN, or both. Raises CniError 7."""
    if not isinstance(item, dict):
        raise CniError(BAD_CONFIG, f"vlanTrunk: {text.encode(item)} is not an object")
    first, last, one = (typed(item, key, int, None) for key in ("minID", "maxID", "id"))
    if (first is None) != (last is None):
        raise CniError(BAD_CONFIG, "vlanTrunk: minID and maxID must be given together")
    found = [pair for pair in ((first, last), (one, one)) if pair[0] is not None]
    for low, high in found:
        if not 1 <= low <= high <= _VLAN_MAX:
            raise CniError(BAD_CONFIG, f"vlanTrunk: {low} to {high} is not within 1..{_VLAN_MAX}")
    return found
