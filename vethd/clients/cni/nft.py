"""nft with one table for each attachment, so that making and deleting its rules is one transaction each.

The existing rules need not be read: a remaining table of the attachment is replaced as a whole.
"""

from __future__ import annotations

from vethd.clients.cni.conf import get
from vethd.clients.cni.run import USUAL, Running, find

PREFIX = "vethd-cni"


def start(script: str) -> Running | None:
    """Start nft with a script; return None if nft is not installed. Raises OSError."""
    program = find("nft", get("PATH"), USUAL)
    return Running([program, "-f", "-"], script.encode()) if program else None


def table(family: str, network: str, container: str, ifname: str) -> str:
    """Return family and name of an attachment's table. A character that nft refuses is replaced by its hex code."""
    name = f"{PREFIX}/{network}/{container}/{ifname}"
    plain = [char.isascii() and (char.isalnum() or char in "_-./") for char in name]
    spelled = (char if ok else f"_{ord(char):x}_" for char, ok in zip(name, plain, strict=True))
    return f"{family} {''.join(spelled)}"


def made(table: str, chain: str, rules: list[str]) -> str:
    """Return the script that makes a table with one chain, and replaces an older table.

    chain starts with the chain's name.
    """
    name = chain.partition(" ")[0]
    lines = [f"add chain {table} {chain}", *(f"add rule {table} {name} {rule}" for rule in rules)]
    return deleted(table) + f"add table {table}\n" + "\n".join(lines) + "\n"


def deleted(table: str) -> str:
    """Return the script that deletes a table, whether or not it exists."""
    return f"add table {table}\ndelete table {table}\n"
