"""Mode "bandwidth": a step after the attachment in a plugin chain that limits its rates, like the reference plugin.

The options are those of the reference plugin: ingressRate, ingressBurst, egressRate and egressBurst, in bits per second
and bits. They come from the network's configuration or, if it has none of them, from the runtime, as the capability
"bandwidth". containerd and CRI-O write IngressRate and so on, which Go accepts, too, and always a burst of 2^32 - 1; a
burst that takes longer than the kernel's clock can count is cut. The token buckets are deleted with the pair, so DEL
has nothing to do.
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


_BURST_S_MAX = 274  # as the daemon has it


def add(conf: Conf, env: Env) -> dict[str, Any]:
    """Limit the rates of the attachment; return the result of the plugins before. Raises CniError."""
    if conf.prev is None:
        raise CniError(BAD_CONFIG, "prevResult is missing: mode bandwidth must be chained after the attachment")
    _limit(conf, env, PATH + "/bandwidth", REFUSED)
    return conf.prev | {"cniVersion": conf.version}


def check(conf: Conf, env: Env) -> None:
    """Check that the attachment has these limits. Raises CniError 102."""
    _limit(conf, env, PATH + "/bandwidth/check", DIFFERS)


def _limit(conf: Conf, env: Env, path: str, code: int) -> None:
    runtime = typed(typed(conf.raw, "runtimeConfig", dict, {}), "bandwidth", dict, {})
    said = conf.raw
    if not said.keys() & _SAID.keys():
        said = {key[:1].lower() + key[1:]: value for key, value in runtime.items()}
    rates = {name: typed(said, key, int, 0) for key, name in _SAID.items()}
    for way in ("ingress", "egress"):
        if rates[f"{way}_rate"]:
            rates[f"{way}_burst"] = min(rates[f"{way}_burst"], rates[f"{way}_rate"] * _BURST_S_MAX)
    if any(rates.values()):
        body = {"network": conf.name, "container": env.container, "ifname": env.ifname}
        daemon(post("POST", path, body | rates), None, code)
