"""macspoofchk: the bridge drops frames that a container sends from another MAC than its own, like the reference plugin.

It needs nft, as in the reference plugin: iptables sees no frames.
"""

from __future__ import annotations

from vethd.clients.cni import nft
from vethd.clients.cni.errors import NO_RULES, CniError
from vethd.clients.cni.run import Running

_CHAIN = "prerouting { type filter hook prerouting priority -300; }"


class SpoofCheck:
    """The check of the source MACs of one attachment's container."""

    def __init__(self, network: str, container: str, ifname: str) -> None:
        self._table = nft.table("bridge", network, container, ifname)

    def put_up(self, host: str, mac: str) -> None:
        """Drop frames from any other MAC than mac that arrive through the link host. Raises CniError 103."""
        rule = f'iifname "{host}" ether saddr != {mac} drop'
        running = nft.start(nft.made(self._table, _CHAIN, [rule]))
        if running is None:
            raise CniError(NO_RULES, "macspoofchk needs nft")
        _end(running, "the firewall rules could not be made")

    def take_down(self) -> None:
        """Delete the rules; missing rules are no error. Raises CniError 103."""
        running = nft.start(nft.deleted(self._table))
        if running is not None:
            _end(running, "the firewall rules could not be deleted")


def _end(running: Running, failure: str) -> None:
    ran = running.wait()
    if ran.status:
        raise CniError(NO_RULES, f"macspoofchk: {failure}", f"nft: {ran.words()}")
