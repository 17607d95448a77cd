"""ADD, DEL, CHECK, STATUS and GC: their steps, the order of these, and how a failed ADD is undone.

The daemon makes pair, bridge, sysctls, addresses and routes in one request, all or nothing. The plugin does the rest,
IPAM and firewall rules, which need root and the host's namespaces. If ADD fails, its steps are undone in reverse order.

If IPAM sends packets through the container's end (dhcp), the end must exist before its addresses. If its MAC is to be
checked (macspoofchk), the end comes up after the firewall rules. In these cases the later steps are separate requests.
"""

from __future__ import annotations

import posix

from vethd.clients.cni import ipam, text
from vethd.clients.cni.conf import Conf, Env
from vethd.clients.cni.errors import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    DIFFERS,
    IO_FAILURE,
    IPAM_FAILED,
    NOT_AVAILABLE,
    REFUSED,
    CniError,
    log,
)
from vethd.clients.cni.masquerade import Masquerade
from vethd.clients.cni.result import Addressing, compose, interface_of, previous, shaped
from vethd.clients.cni.spoofing import SpoofCheck
from vethd.clients.door import HEALTH, DownError, ask, quoted, request
from vethd.clients.paths import socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PATH = "/v1/attachments"
_OF_HOST = ("/proc/self/ns/net", "/proc/sys/net")
_BRIDGE_FLAGS = {
    "promisc": "promiscMode",
    "hairpin": "hairpinMode",
    "isolated": "portIsolation",
    "default_vlan": "preserveDefaultVlan",
}
_REFUSED_FROM = 400


def add(conf: Conf, env: Env) -> dict[str, Any]:
    """Attach the container; return the result in the configuration's version. Raises CniError; then ADD is undone."""
    undo: list[Callable[[], object]] = []
    fds = _open_host_and_container(env)
    try:
        _not_twice(conf, env)
        body = _body(conf, env)
        made = addressing = masquerade = None
        if conf.flags["macspoofchk"]:
            spoof_check = SpoofCheck(conf.name, env.container, env.ifname)
            undo.append(spoof_check.take_down)
            made = _ask(made, conf, body | {"up": False}, fds, undo)
            spoof_check.put_up(made["host"]["name"], made["container"]["address"])
        if conf.ipam == "dhcp":
            made = _ask(made, conf, body, fds, undo)
        if conf.ipam:
            addressing = _lease(conf, undo)
            body = _addressed(conf, body, addressing)
            if conf.flags["ipMasq"]:  # in parallel with the daemon, which waits for other locks
                masquerade = Masquerade(conf.name, env.container, env.ifname, conf.masq_backend)
                undo.append(masquerade.take_down)
                masquerade.begin(addressing.subnets)
        made = _ask(made, conf, body, fds, undo)
        if masquerade is not None:
            masquerade.finish()
        return shaped(compose(conf, env, made, addressing), conf.version)
    except BaseException:
        for error in _all(undo[::-1]):
            log(f"failure while undoing ADD: {error}")
        raise
    finally:
        for fd in fds:
            posix.close(fd)


def delete(conf: Conf, env: Env) -> None:
    """Detach the container. Raises CniError.

    A failure does not stop it: the first error is raised at the end.
    """
    failed: list[CniError] = []
    try:
        _detach(conf.name, env.container, env.ifname)
    except CniError as error:
        if error.code == NOT_AVAILABLE:  # its pairs are gone, or are deleted with the container's namespace
            log(f"DEL: {error}")
        else:
            failed.append(error)
    acts = _rules_end(conf, env.container, env.ifname)
    if conf.ipam:
        acts.append(lambda: ipam.call(conf, "DEL"))
    failed += _all(acts)
    if failed:
        raise failed[0]


def check(conf: Conf, env: Env) -> None:
    """Check that the attachment is as ADD and the later plugins left it. Raises CniError 102 with the difference."""
    container, said = previous(conf, env)
    fds = _open_host_and_container(env)
    try:
        if conf.ipam:
            ipam.call(conf, "CHECK")
        body = _addressed(conf, _body(conf, env), Addressing(conf, said, previous=True))
        body["address"] = container.get("mac") or None
        made = daemon(post("POST", f"{PATH}/check", body), fds, DIFFERS)
    finally:
        for fd in fds:
            posix.close(fd)
    for link in (made["bridge"], made["host"], made["vlan"]):
        told = interface_of(conf, link["name"]) if link is not None else None
        if link is not None and (told is None or told.get("mac", link["address"]).lower() != link["address"]):
            what = f"has the MAC {link['address']}, not {told['mac']}" if told else "is not in prevResult"
            raise CniError(DIFFERS, f"{link['name']} {what}")


def status(conf: Conf) -> None:
    """Check that ADD can work. Raises CniError 50, or that of IPAM."""
    daemon(HEALTH)
    if conf.ipam:
        ipam.call(conf, "STATUS")


def collect(conf: Conf) -> None:
    """Delete the network's attachments that the runtime does not list as valid. Raises CniError.

    A failure does not stop it: the first error is raised at the end, with the others as its details.
    """
    valid = conf.raw.get("cni.dev/valid-attachments")
    if not isinstance(valid, list) or not all(isinstance(one, dict) for one in valid):
        raise CniError(BAD_CONFIG, "cni.dev/valid-attachments is missing, or is not a list of objects")
    used = {(one.get("containerID"), one.get("ifname")) for one in valid}
    failed: list[CniError] = []
    if conf.ipam:
        try:
            ipam.call(conf, "GC")
        except CniError as error:
            failed.append(error)
    try:
        for one in daemon(request("GET", PATH)):
            if one["network"] == conf.name and (one["container"], one["ifname"]) not in used:
                failed += _all(_ends(conf, one))
    except CniError as error:
        failed.append(error)
    if failed:
        raise CniError(failed[0].code, failed[0].msg, "; ".join(filter(None, (str(one) for one in failed[1:]))))


def _not_twice(conf: Conf, env: Env) -> None:
    """Refuse an existing attachment before IPAM runs: undoing ADD would delete the lease and rules of the first one.

    This request also fails if the daemon is down. Raises CniError.
    """
    try:
        reply = ask(request("GET", _path(conf.name, env.container, env.ifname)), [])
    except DownError as error:
        raise _down(error) from None
    if reply.status < _REFUSED_FROM:
        msg = f"{env.ifname} of container {env.container} is already attached to {conf.name}"
        raise CniError(REFUSED, msg, "EEXIST")


def _lease(conf: Conf, undo: list[Callable[[], object]]) -> Addressing:
    """Get addresses from IPAM. Raises CniError."""
    given = ipam.call(conf, "ADD")
    undo.append(lambda: ipam.call(conf, "DEL"))
    addressing = Addressing(conf, given)
    if not addressing.ips:
        raise CniError(IPAM_FAILED, f"{conf.ipam} returned no address")
    return addressing


def _ends(conf: Conf, one: dict[str, str]) -> list[Callable[[], object]]:
    """Return the calls that delete an attachment from the daemon's list."""
    words = (one["network"], one["container"], one["ifname"])
    return [lambda: _detach(*words), *_rules_end(conf, one["container"], one["ifname"])]


def _rules_end(conf: Conf, container: str, ifname: str) -> list[Callable[[], object]]:
    """Return the calls that delete an attachment's firewall rules."""
    acts: list[Callable[[], object]] = []
    if conf.flags["macspoofchk"]:
        acts.append(SpoofCheck(conf.name, container, ifname).take_down)
    if conf.flags["ipMasq"]:
        acts.append(Masquerade(conf.name, container, ifname, conf.masq_backend).take_down)
    return acts


def _all(acts: list[Callable[[], object]]) -> list[CniError]:
    """Make all calls, also after a failure; return the failures."""
    failed = []
    for act in acts:
        try:
            act()
        except CniError as error:
            failed.append(error)
        except OSError as error:  # a program such as nft cannot be started
            failed.append(CniError(IO_FAILURE, error.strerror or str(error)))
    return failed


def _body(conf: Conf, env: Env) -> dict[str, Any]:
    """Return the body of the daemon's request, without addresses."""
    body: dict[str, Any] = {"network": conf.name, "container": env.container, "ifname": env.ifname}
    body |= {"netns": "fd:0", "host_netns": "fd:1", "sysctls": "fd:2", "address": conf.mac(), "mtu": conf.mtu or None}
    body |= {"dad": conf.flags["enabledad"], "up": not conf.flags["disableContainerInterface"]}
    if conf.mode == "bridge":
        flags = {key: conf.flags[name] for key, name in _BRIDGE_FLAGS.items()}
        body["bridge"] = {"name": conf.bridge, "mtu": conf.mtu or None, "vlan": conf.vlan or None, **flags}
        body["bridge"]["trunk"] = conf.trunk
    return body


def _addressed(conf: Conf, body: dict[str, Any], addressing: Addressing) -> dict[str, Any]:
    body = body | {"ips": addressing.ips, "routes": addressing.routes}
    if conf.mode == "bridge":
        gateways = {"gateways": addressing.gateways, "force": conf.flags["forceAddress"]}
        body["bridge"] = body["bridge"] | gateways
    return body


def _ask(
    made: dict[str, Any] | None, conf: Conf, body: dict[str, Any], fds: list[int], undo: list[Callable[[], object]]
) -> dict[str, Any]:
    """Have the daemon make the attachment, or complete a made one; return its present state. Raises CniError."""
    now: dict[str, Any] = daemon(post("PATCH" if made else "POST", PATH, body), fds)
    if made is None:
        undo.append(lambda: _detach(conf.name, body["container"], body["ifname"]))
    for line in now["refused"]:
        log(line)
    return now


def _detach(network: str, container: str, ifname: str) -> None:
    daemon(request("DELETE", _path(network, container, ifname)))


def _path(network: str, container: str, ifname: str) -> str:
    return f"{PATH}/{quoted(network)}/{quoted(container)}/{quoted(ifname)}"


def post(method: str, path: str, body: dict[str, Any]) -> bytes:
    """Return a request for the daemon, with a JSON body."""
    return request(method, path, text.encode(body))


def daemon(asked: bytes, fds: list[int] | None = None, code: int = REFUSED) -> Any:
    """Make one request and return the reply's body.

    Raises CniError: 50 if the daemon does not answer, code if it refuses.
    """
    try:
        reply = ask(asked, fds or [])
    except DownError as error:
        raise _down(error) from None
    body = text.decode(reply.text) if reply.text else None
    if reply.status >= _REFUSED_FROM:
        said = body if isinstance(body, dict) else {}
        raise CniError(code, str(said.get("message")), str(said.get("code")))
    return body


def _down(error: DownError) -> CniError:
    path = socket_path().decode("utf-8", "surrogateescape")
    return CniError(NOT_AVAILABLE, f"vethd does not answer at {path}: {error}")


def _open_host_and_container(env: Env) -> list[int]:
    """Open the container's namespace, the host's, and the directory of the sysctls. Raises CniError 4."""
    try:
        container = posix.open(env.netns, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError as error:
        raise CniError(BAD_ENVIRONMENT, f"CNI_NETNS: {env.netns}: {error.strerror}") from None
    # the daemon's own /proc/sys may be read-only, as it is under systemd
    return [container, *(posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC) for path in _OF_HOST)]
