"""`vethd-cni install DIR`: the plugin's modules, compiled, in one file for a container runtime's plugin directory.

The file begins with the interpreter's absolute path and holds bytecode, for the reasons that vethd-ip's has
(clients/ip/install.py). With CNI_COMMAND in its environment vethd-cni is the plugin itself, only slower.
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
"""Each after those that it imports. VERSION needs the first four alone."""

_FILE = """\
#!{python} -IS
# {mark} (vethd {version}); install it again after either changed.
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
    """Return whether a file is one that install() wrote."""
    return MARK.encode() in head_of(path)


def contents(python: str) -> bytes:
    """Return the file: source, with bytecode for the interpreter that runs this."""
    room = Path(__file__).parents[1]
    codes = []
    for name in MODULES:
        source = room.joinpath(*name.split(".")).with_suffix(".py").read_bytes()
        codes.append((name, compile(source, f"vethd-cni/{name}", "exec", dont_inherit=True, optimize=2)))
    packed = binascii.b2a_base64(zlib.compress(marshal.dumps(codes)), newline=False)
    return _FILE.format(python=python, mark=MARK, version=__version__, codes=packed).encode()


def install(directory: Path) -> Path:
    """Put the plugin into a directory, whole or not at all, over an older one of ours. Raises InstallError."""
    target = directory / NAME
    if os.path.lexists(target) and not is_ours(target):
        raise InstallError(f"{target} is there already, and not made by vethd-cni: it stays")
    put(target, partial(contents, interpreter()))
    return target


def main() -> None:
    """Run vethd-cni: `install DIR`, or, with CNI_COMMAND in the environment, the plugin."""
    if "CNI_COMMAND" in os.environ:
        sys.exit(plugin())
    parser = argparse.ArgumentParser(prog=NAME, description="The CNI plugin of vethd; runtimes call it by its file.")
    commands = parser.add_subparsers(required=True, metavar="install")
    asked = commands.add_parser("install", help="put the file vethd-cni into a runtime's plugin directory")
    asked.add_argument("directory", metavar="DIR", type=Path, help="as /opt/cni/bin or /usr/lib/cni; must be there")
    try:
        sys.stdout.write(f"{install(parser.parse_args().directory)}\n")
    except InstallError as error:
        sys.exit(f"vethd-cni: {error}")


if __name__ == "__main__":
    main()
