"""macspoofchk: the bridge drops what a container sends from a MAC that is not its own, as with the reference plugin.

By nft alone, as there: iptables sees no frames.
"""

from __future__ import annotations

from vethd.clients.cni import nft
from vethd.clients.cni.errors import NO_RULES, CniError
from vethd.clients.cni.run import Running

_CHAIN = "prerouting { type filter hook prerouting priority -300; }"


class SpoofCheck:
    """The check of the MACs that one attachment's container sends from."""

    def __init__(self, network: str, container: str, ifname: str) -> None:
        self._table = nft.table("bridge", network, container, ifname)

    def put_up(self, host: str, mac: str) -> None:
        """Drop what comes from another MAC through the host's end of that name. Raises CniError 103."""
        rule = f'iifname "{host}" ether saddr != {mac} drop'
        running = nft.start(nft.made(self._table, _CHAIN, [rule]))
        if running is None:
            raise CniError(NO_RULES, "macspoofchk needs nft")
        _end(running, "no rules could be made")

    def take_down(self) -> None:
        """Drop nothing any more; nothing to take away is no error. Raises CniError 103."""
        running = nft.start(nft.deleted(self._table))
        if running is not None:
            _end(running, "its rules could not be taken away")


def _end(running: Running, failure: str) -> None:
    ran = running.wait()
    if ran.status:
        raise CniError(NO_RULES, f"macspoofchk: {failure}", f"nft: {ran.words()}")
