"""Masquerading, by nft where it works, else by iptables: beyond its subnet a container goes by the host's address.

With nft each attachment has a table of its own, so that setting it up and taking it away are one transaction each, and
nobody has to be asked what is there. With iptables it has a chain in the nat table, as the reference plugins make it.
"""

from __future__ import annotations

from vethd.clients.cni.addresses import Subnet
from vethd.clients.cni.conf import get
from vethd.clients.cni.errors import NO_MASQUERADE, CniError
from vethd.clients.cni.run import USUAL, Ran, Running, find, run

_PREFIX = "vethd-cni"
_NFT_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_TOOLS = {4: "iptables", 6: "ip6tables"}


class Masquerade:
    """The masquerading of one attachment, which its name says: network, container, interface."""

    def __init__(self, network: str, container: str, ifname: str) -> None:
        self._name = f"{_PREFIX}/{network}/{container}/{ifname}"
        self._subnets: list[Subnet] = []
        self._nft: Running | None = None

    def begin(self, subnets: list[Subnet]) -> None:
        """Begin to masquerade for these addresses; finish() waits until it is so."""
        self._subnets = subnets
        nft = _tool("nft")
        self._nft = Running([nft, "-f", "-"], self.nft_rules(subnets).encode()) if nft else None

    def finish(self) -> None:
        """Masquerade for the addresses that begin() was told. Raises CniError 103, and then nothing is masqueraded."""
        failed, subnets = [], self._subnets
        if self._nft is not None:
            ran = self._nft.wait()
            self._nft = None
            if not ran.status:
                return
            failed.append(f"nft: {ran.words()}")
        versions = sorted({subnet.version for subnet in subnets})
        for version in versions:
            made = _restore(version, self.iptables_rules([one for one in subnets if one.version == version]))
            if made is None or made.status:
                failed += [f"{_TOOLS[version]}: {made.words()}"] if made is not None else []
                break
        else:
            return
        for version in versions:
            self._forget_chain(version)
        why = "; ".join(failed)
        raise CniError(NO_MASQUERADE, "ipMasq: no rules could be made" if why else "ipMasq needs nft or iptables", why)

    def take_down(self) -> None:
        """Masquerade no more; nothing to take away is no error. Raises CniError 103."""
        if self._nft is not None:
            self._nft.wait()
        nft = _tool("nft")
        ran = run([nft, "-f", "-"], self.nft_end().encode()) if nft else None
        if ran is None or ran.status:
            problems = [self._forget_chain(version) for version in _TOOLS]
            if ran is not None and not any(_tool(_TOOLS[version]) for version in _TOOLS):
                problems.append(f"nft: {ran.words()}")
            if why := "; ".join(filter(None, problems)):
                raise CniError(NO_MASQUERADE, "ipMasq: its rules could not be taken away", why)

    def table(self) -> str:
        """Return the table's name; what nft takes in no name is spelled by its number."""
        plain = [char.isascii() and (char.isalnum() or char in "_-./") for char in self._name]
        return "".join(char if ok else f"_{ord(char):x}_" for char, ok in zip(self._name, plain, strict=True))

    def nft_rules(self, subnets: list[Subnet]) -> str:
        """Write the table: all of it, over what may be left of an older one."""
        lines = [f"add chain inet {self.table()} postrouting {{ type nat hook postrouting priority srcnat; }}"]
        for subnet in subnets:
            ip = "ip" if subnet.version == 4 else "ip6"
            beyond = f"{{ {subnet.network()}, {_NFT_MULTICAST[subnet.version]} }}"
            match = f"{ip} saddr {subnet.ip} {ip} daddr != {beyond}"
            lines.append(f"add rule inet {self.table()} postrouting {match} masquerade")
        return self.nft_end() + f"add table inet {self.table()}\n" + "\n".join(lines) + "\n"

    def nft_end(self) -> str:
        """Write the table's end, which needs one that is there."""
        return f"add table inet {self.table()}\ndelete table inet {self.table()}\n"

    def chain(self) -> str:
        """Return the chain's name, of which iptables allows 28 letters."""
        import hashlib  # noqa: PLC0415 - 3 ms, where there is no nft

        return "VETHD-" + hashlib.sha256(self._name.encode("utf-8", "surrogateescape")).hexdigest()[:22]

    def iptables_rules(self, subnets: list[Subnet]) -> str:
        """Write what iptables-restore makes of the chain, one family's."""
        chain = self.chain()
        lines = [f"*nat\n:{chain} - [0:0]", *(f"-A {chain} -d {subnet.network()} -j RETURN" for subnet in subnets)]
        lines.append(f"-A {chain} ! -d {_NFT_MULTICAST[subnets[0].version]} -j MASQUERADE")
        lines += [f"-A POSTROUTING -s {subnet.ip} -j {chain}" for subnet in subnets]
        return "\n".join([*lines, "COMMIT", ""])

    def _forget_chain(self, version: int) -> str:
        """Take a family's chain away, where it is there; return what went wrong."""
        tool = _tool(_TOOLS[version])
        if not tool:
            return ""
        chain = self.chain()
        listed = run([tool, "-w", "-t", "nat", "-S"], b"")
        if listed.status:
            return ""  # no nat table: no chain in it
        rules = listed.out.decode("utf-8", "replace").splitlines()
        if f"-N {chain}" not in rules:
            return ""
        jumps = [
            "-D" + rule[2:] for rule in rules if rule.startswith("-A POSTROUTING ") and rule.endswith(f"-j {chain}")
        ]
        script = "\n".join(["*nat", *jumps, f"-F {chain}", f"-X {chain}", "COMMIT", ""])
        ran = _restore(version, script)
        return f"{_TOOLS[version]}: {ran.words()}" if ran is not None and ran.status else ""


def _restore(version: int, script: str) -> Ran | None:
    tool = _tool(_TOOLS[version] + "-restore")
    return run([tool, "-n", "-w"], script.encode()) if tool else None


def _tool(name: str) -> str:
    return find(name, get("PATH"), USUAL)
