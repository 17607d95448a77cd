"""The result of ADD: composed of the daemon's and IPAM's results, in the form of each version of the specification.

A result is held in the form of version 1.1.0. shaped() removes the fields that an older version does not have, and adds
those that it requires.
"""

from __future__ import annotations

from vethd.clients.cni.addresses import AddressError, Subnet
from vethd.clients.cni.conf import Conf, Env
from vethd.clients.cni.errors import BAD_CONFIG, IPAM_FAILED, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NEW_IN_ROUTES = ("mtu", "advmss", "priority", "table", "scope")  # 1.1.0
_OLD = ("0.3.1", "0.4.0")


class Addressing:
    """The ips, routes and dns of IPAM's result, or of a prevResult, completed as the configuration requires.

    gateways are the addresses that the bridge gets, "10.88.0.1/16".
    """

    def __init__(self, conf: Conf, said: dict[str, Any], *, previous: bool = False) -> None:
        """Parse IPAM's result, or the prevResult. Raises CniError 101, or 7 for a prevResult."""
        try:
            self.ips = [{key: ip[key] for key in ("address", "gateway") if ip.get(key)} for ip in _objects(said, "ips")]
            self.subnets = [Subnet(str(ip["address"])) for ip in self.ips]
            keys = ("dst", "gw", *_NEW_IN_ROUTES)
            self.routes = [
                {key: route[key] for key in keys if route.get(key) is not None} for route in _objects(said, "routes")
            ]
            self.gateways: list[str] = []
            if conf.mode == "bridge" and conf.flags["isGateway"]:
                self._complete(default=conf.flags["isDefaultGateway"])
        except (AddressError, KeyError) as error:
            if previous:
                raise CniError(BAD_CONFIG, f"prevResult: {error}") from None
            raise CniError(IPAM_FAILED, f"{conf.ipam} returned an invalid result: {error}") from None
        self.dns = said.get("dns") or {}

    @property
    def families(self) -> set[int]:
        """The IP versions of the addresses: 4, 6."""
        return {subnet.version for subnet in self.subnets}

    def _complete(self, *, default: bool) -> None:
        """Add the missing gateways: for each address, the first host address of its subnet.

        default adds a default route through each gateway, if the routes have none of the family.
        """
        for ip, subnet in zip(self.ips, self.subnets, strict=True):
            gateway = ip.setdefault("gateway", subnet.first())
            self.gateways.append(f"{gateway}/{subnet.prefix}")
            everywhere = "0.0.0.0/0" if subnet.version == 4 else "::/0"
            if default and not any(route["dst"] == everywhere and "gw" in route for route in self.routes):
                self.routes.append({"dst": everywhere, "gw": gateway})


def compose(conf: Conf, env: Env, made: dict[str, Any], addressing: Addressing | None) -> dict[str, Any]:
    """Return the whole result: the links that the daemon made, and their addresses, after those of earlier plugins."""
    before = conf.prev or {}
    interfaces, ips, routes = before_us(conf)
    for key in ("bridge", "host", "container", "vlan"):
        if made[key] is not None:
            link = made[key]
            told = {"name": link["name"], "mac": link["address"], "mtu": link["mtu"]}
            interfaces.append(told | ({"sandbox": env.netns} if key == "container" else {}))
    dns = before.get("dns") or {}
    if addressing is not None:
        container = len(interfaces) - 1 - (made["vlan"] is not None)
        ips += [{"interface": container, **ip} for ip in addressing.ips]
        routes += addressing.routes
        dns = addressing.dns or dns
    return {"interfaces": interfaces, "ips": ips, "routes": routes, "dns": conf.dns or dns}


def before_us(conf: Conf) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return interfaces, ips and routes of the prevResult. Raises CniError 7."""
    try:
        found = [list(_objects(conf.prev or {}, key)) for key in ("interfaces", "ips", "routes")]
    except AddressError as error:
        raise CniError(BAD_CONFIG, f"prevResult: {error}") from None
    return found[0], found[1], found[2]


def shaped(result: dict[str, Any], version: str) -> dict[str, Any]:
    """Return a result in the form of that version of the specification."""
    interfaces, routes, ips = result["interfaces"], result["routes"], result["ips"]
    if version != "1.1.0":
        interfaces = [_without(one, ("mtu", "socketPath", "pciID")) for one in interfaces]
        routes = [_without(one, _NEW_IN_ROUTES) for one in routes]
    if version in _OLD:
        ips = [{"version": "6" if ":" in ip["address"] else "4", **ip} for ip in ips]
    else:
        ips = [_without(ip, ("version",)) for ip in ips]
    told: dict[str, Any] = {"cniVersion": version, "interfaces": interfaces}
    return told | ({"ips": ips} if ips else {}) | ({"routes": routes} if routes else {}) | {"dns": result["dns"]}


def previous(conf: Conf, env: Env) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the container's interface of the prevResult, and an object with its ips and all routes.

    Raises CniError 7.
    """
    if conf.prev is None:
        raise CniError(BAD_CONFIG, "prevResult is missing")
    interfaces, ips, routes = before_us(conf)
    for number, one in enumerate(interfaces):
        if one.get("name") == env.ifname and one.get("sandbox") == env.netns:
            return one, {"ips": [ip for ip in ips if ip.get("interface", number) == number], "routes": routes}
    raise CniError(BAD_CONFIG, f"prevResult has no interface {env.ifname} in {env.netns}")


def interface_of(conf: Conf, name: str) -> dict[str, Any] | None:
    """Return the host's interface of that name in the prevResult, None if there is none."""
    for one in (conf.prev or {}).get("interfaces") or []:
        if one.get("name") == name and not one.get("sandbox"):
            return dict(one)
    return None


def _objects(said: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = said.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise AddressError(f"{key} is not a list of objects")
    return found


def _without(one: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in keys}
