"""nft: a table for each attachment, so that making it and deleting it are one transaction each.

Nobody has to be asked for the rules that are there: a table that is left over is replaced whole.
"""

from __future__ import annotations

from vethd.clients.cni.conf import get
from vethd.clients.cni.run import USUAL, Running, find

PREFIX = "vethd-cni"


def start(script: str) -> Running | None:
    """Start nft with a script; None where there is no nft. Raises OSError."""
    program = find("nft", get("PATH"), USUAL)
    return Running([program, "-f", "-"], script.encode()) if program else None


def table(family: str, network: str, container: str, ifname: str) -> str:
    """Name an attachment's table of a family; a character that nft does not take in a name is spelled by its number."""
    name = f"{PREFIX}/{network}/{container}/{ifname}"
    plain = [char.isascii() and (char.isalnum() or char in "_-./") for char in name]
    spelled = (char if ok else f"_{ord(char):x}_" for char, ok in zip(name, plain, strict=True))
    return f"{family} {''.join(spelled)}"


def made(table: str, chain: str, rules: list[str]) -> str:
    """Write the script that makes a table of one chain, in place of an older one. chain begins with its name."""
    name = chain.partition(" ")[0]
    lines = [f"add chain {table} {chain}", *(f"add rule {table} {name} {rule}" for rule in rules)]
    return deleted(table) + f"add table {table}\n" + "\n".join(lines) + "\n"


def deleted(table: str) -> str:
    """Write the script that deletes a table, whether it is there or not."""
    return f"add table {table}\ndelete table {table}\n"
