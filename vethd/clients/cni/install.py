"""`vethd-cni install DIR`: write the plugin, one file with compiled modules, to a runtime's plugin directory.

The file starts with the interpreter's absolute path and contains bytecode, for the same reasons as vethd-ip's file
(clients/ip/install.py). With CNI_COMMAND in its environment, vethd-cni itself acts as the plugin, but more slowly.
"""

from __future__ import annotations

import argparse
import binascii
import marshal
import os
import sys
import zlib
from functools import partial
from pathlib import Path

from vethd import __version__
from vethd.clients.cni.plugin import main as plugin
from vethd.clients.single import InstallError, head_of, interpreter, put

NAME = "vethd-cni"
MARK = "Made by `vethd-cni install`"
MODULES = (
    "cni.errors",
    "cni.text",
    "cni.conf",
    "cni.plugin",
    "paths",
    "door",
    "cni.addresses",
    "cni.run",
    "cni.ipam",
    "cni.nft",
    "cni.masquerade",
    "cni.spoofing",
    "cni.result",
    "cni.operations",
    "cni.bandwidth",
)
"""Each comes after the modules that it imports. VERSION needs only the first four."""

_FILE = """\
#!{python} -IS
# {mark} (vethd {version}); install it again after either has changed.
import marshal, posix, sys, zlib
from binascii import a2b_base64
def load(name, code=None):
    module = sys.modules[name] = type(sys)(name)
    home, _, leaf = name.rpartition(".")
    if home:
        setattr(sys.modules[home], leaf, module)
    if code is None:
        module.__path__ = []
    else:
        exec(code, module.__dict__)
for name in ("vethd", "vethd.clients", "vethd.clients.cni"):
    load(name)
codes = marshal.loads(zlib.decompress(a2b_base64({codes!r})))
for name, code in codes[: 4 if posix.environ.get(b"CNI_COMMAND") == b"VERSION" else None]:
    load("vethd.clients." + name, code)
posix._exit(sys.modules["vethd.clients.cni.plugin"].main())
"""


def is_ours(path: Path) -> bool:
    """Return whether install() wrote the file."""
    return MARK.encode() in head_of(path)


def contents(python: str) -> bytes:
    """Return the file: source, with bytecode for the running interpreter. python is the path in its first line."""
    room = Path(__file__).parents[1]
    codes = []
    for name in MODULES:
        source = room.joinpath(*name.split(".")).with_suffix(".py").read_bytes()
        codes.append((name, compile(source, f"vethd-cni/{name}", "exec", dont_inherit=True, optimize=2)))
    packed = binascii.b2a_base64(zlib.compress(marshal.dumps(codes)), newline=False)
    return _FILE.format(python=python, mark=MARK, version=__version__, codes=packed).encode()


def install(directory: Path) -> Path:
    """Write the plugin to a directory, atomically, and replace an older one. Raises InstallError."""
    target = directory / NAME
    if os.path.lexists(target) and not is_ours(target):
        raise InstallError(f"{target} already exists and was not made by vethd-cni; it was left unchanged")
    put(target, partial(contents, interpreter()))
    return target


def main() -> None:
    """Run vethd-cni: `install DIR`, or the plugin if CNI_COMMAND is in the environment."""
    if "CNI_COMMAND" in os.environ:
        sys.exit(plugin())
    parser = argparse.ArgumentParser(prog=NAME, description="The CNI plugin of vethd; runtimes call it by its file.")
    commands = parser.add_subparsers(required=True, metavar="install")
    asked = commands.add_parser("install", help="put the file vethd-cni into a runtime's plugin directory")
    asked.add_argument(
        "directory", metavar="DIR", type=Path, help="an existing directory, such as /opt/cni/bin or /usr/lib/cni"
    )
    try:
        sys.stdout.write(f"{install(parser.parse_args().directory)}\n")
    except InstallError as error:
        sys.exit(f"vethd-cni: {error}")


if __name__ == "__main__":
    main()
