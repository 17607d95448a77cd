"""Masquerading: beyond its subnet, a container uses an address of the host. By nft if it works, otherwise by iptables.

With nft, each attachment has its own table (nft.py). With iptables, it has a chain in the nat table, as with the
reference plugins. The network's configuration can choose one of the two (ipMasqBackend).
"""

from __future__ import annotations

from vethd.clients.cni import nft
from vethd.clients.cni.addresses import Subnet
from vethd.clients.cni.conf import get
from vethd.clients.cni.errors import NO_RULES, CniError
from vethd.clients.cni.run import USUAL, Ran, Running, find, run

_NFT_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_TOOLS = {4: "iptables", 6: "ip6tables"}


class Masquerade:
    """The masquerading of one attachment, which network, container and ifname identify.

    backend is "nftables", "iptables", or "" for the first of these that works.
    """

    def __init__(self, network: str, container: str, ifname: str, backend: str = "") -> None:
        self._name = f"{nft.PREFIX}/{network}/{container}/{ifname}"
        self._table = nft.table("inet", network, container, ifname)
        self._backend = backend
        self._subnets: list[Subnet] = []
        self._nft: Running | None = None

    def begin(self, subnets: list[Subnet]) -> None:
        """Start to masquerade these addresses; finish() waits until it is done."""
        self._subnets = subnets
        self._nft = nft.start(self.nft_rules(subnets)) if self._backend != "iptables" else None

    def finish(self) -> None:
        """Complete what begin() started. Raises CniError 103, and then nothing is masqueraded."""
        failed, subnets = [], self._subnets
        if self._nft is not None:
            ran = self._nft.wait()
            self._nft = None
            if not ran.status:
                return
            failed.append(f"nft: {ran.words()}")
        versions = sorted({subnet.version for subnet in subnets}) if self._backend != "nftables" else []
        for version in versions:
            made = _restore(version, self.iptables_rules([one for one in subnets if one.version == version]))
            if made is None or made.status:
                failed += [f"{_TOOLS[version]}: {made.words()}"] if made is not None else []
                break
        else:
            if versions:
                return
        for version in versions:
            self._forget_chain(version)
        why = "; ".join(failed)
        needed = {"nftables": "nft", "iptables": "iptables"}.get(self._backend, "nft or iptables")
        raise CniError(
            NO_RULES, "ipMasq: the firewall rules could not be made" if why else f"ipMasq needs {needed}", why
        )

    def take_down(self) -> None:
        """Delete the rules; missing rules are no error. Raises CniError 103.

        This tries iptables only if nft had no table to delete, or if backend is "iptables": a kernel can have nftables
        without its masquerading.
        """
        if self._nft is not None:
            self._nft.wait()
        if _succeeds(nft.start(f"delete table {self._table}\n")) and self._backend != "iptables":
            return
        problems = [self._forget_chain(version) for version in _TOOLS]
        if not any(_tool(_TOOLS[version]) for version in _TOOLS):
            running = nft.start(nft.deleted(self._table))  # succeeds without a table, too
            ran = running.wait() if running is not None else None
            problems += [f"nft: {ran.words()}"] if ran is not None and ran.status else []
        if why := "; ".join(filter(None, problems)):
            raise CniError(NO_RULES, "ipMasq: the firewall rules could not be deleted", why)

    def nft_rules(self, subnets: list[Subnet]) -> str:
        """Return the nft script that makes the whole table and replaces an older one."""
        rules = []
        for subnet in subnets:
            ip = "ip" if subnet.version == 4 else "ip6"
            beyond = f"{{ {subnet.network()}, {_NFT_MULTICAST[subnet.version]} }}"
            rules.append(f"{ip} saddr {subnet.ip} {ip} daddr != {beyond} masquerade")
        return nft.made(self._table, "postrouting { type nat hook postrouting priority srcnat; }", rules)

    def chain(self) -> str:
        """Return the chain's name. iptables allows 28 characters."""
        import hashlib  # noqa: PLC0415 - takes 3 ms; only iptables needs it

        return "VETHD-" + hashlib.sha256(self._name.encode("utf-8", "surrogateescape")).hexdigest()[:22]

    def iptables_rules(self, subnets: list[Subnet]) -> str:
        """Return the input of iptables-restore that makes the chain of one family."""
        chain = self.chain()
        lines = [f"*nat\n:{chain} - [0:0]", *(f"-A {chain} -d {subnet.network()} -j RETURN" for subnet in subnets)]
        lines.append(f"-A {chain} ! -d {_NFT_MULTICAST[subnets[0].version]} -j MASQUERADE")
        lines += [f"-A POSTROUTING -s {subnet.ip} -j {chain}" for subnet in subnets]
        return "\n".join([*lines, "COMMIT", ""])

    def _forget_chain(self, version: int) -> str:
        """Delete a family's chain if it exists; return an error text, "" on success."""
        tool = _tool(_TOOLS[version])
        if not tool:
            return ""
        chain = self.chain()
        listed = run([tool, "-w", "-t", "nat", "-S"], b"")
        if listed.status:
            return ""  # there is no nat table, so there is no chain
        rules = listed.out.decode("utf-8", "replace").splitlines()
        if f"-N {chain}" not in rules:
            return ""
        jumps = [
            "-D" + rule[2:] for rule in rules if rule.startswith("-A POSTROUTING ") and rule.endswith(f"-j {chain}")
        ]
        script = "\n".join(["*nat", *jumps, f"-F {chain}", f"-X {chain}", "COMMIT", ""])
        ran = _restore(version, script)
        return f"{_TOOLS[version]}: {ran.words()}" if ran is not None and ran.status else ""


def _succeeds(running: Running | None) -> bool:
    return running is not None and not running.wait().status


def _restore(version: int, script: str) -> Ran | None:
    tool = _tool(_TOOLS[version] + "-restore")
    return run([tool, "-n", "-w"], script.encode()) if tool else None


def _tool(name: str) -> str:
    return find(name, get("PATH"), USUAL)
