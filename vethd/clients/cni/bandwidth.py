"""Mode "bandwidth": chained after the attachment, it holds it to rates, as the reference plugin does a veth.

Configured as that one: ingressRate, ingressBurst, egressRate, egressBurst, in bits (a second), said by the network or,
as the capability "bandwidth", by the runtime. The buckets go with the pair: DEL has nothing to do.
"""

from __future__ import annotations

from vethd.clients.cni.conf import Conf, Env, typed
from vethd.clients.cni.errors import BAD_CONFIG, DIFFERS, REFUSED, CniError
from vethd.clients.cni.operations import PATH, daemon, post

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SAID = {
    "ingressRate": "ingress_rate",
    "ingressBurst": "ingress_burst",
    "egressRate": "egress_rate",
    "egressBurst": "egress_burst",
}


def add(conf: Conf, env: Env) -> dict[str, Any]:
    """Hold the attachment to its rates; return the result of the plugins before. Raises CniError."""
    if conf.prev is None:
        raise CniError(BAD_CONFIG, "prevResult is missing: mode bandwidth is chained after the attachment")
    _limit(conf, env, PATH + "/bandwidth", REFUSED)
    return conf.prev | {"cniVersion": conf.version}


def check(conf: Conf, env: Env) -> None:
    """See that the attachment is held to its rates. Raises CniError 102."""
    _limit(conf, env, PATH + "/bandwidth/check", DIFFERS)


def _limit(conf: Conf, env: Env, path: str, code: int) -> None:
    said = typed(typed(conf.raw, "runtimeConfig", dict, {}), "bandwidth", dict, None) or conf.raw
    rates = {name: typed(said, key, int, 0) for key, name in _SAID.items()}
    if any(rates.values()):
        body = {"network": conf.name, "container": env.container, "ifname": env.ifname}
        daemon(post("POST", path, body | rates), None, code)
