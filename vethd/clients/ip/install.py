"""`vethd-ip install DIR`: write the room's modules, compiled, into one file named `ip`. Also runs vethd-ip directly.

The file begins with the interpreter's absolute path, as a search for it takes 130 ms under pyenv. It holds bytecode, as
compiling the source would take 20 ms in each call. Every call runs the modules that most calls need; the other modules
are unpacked on demand. They are compressed, as reading past them uncompressed takes 1 ms. The file ends with _exit(),
which saves another millisecond; no output is buffered.
"""

from __future__ import annotations

import argparse
import binascii
import marshal
import os
import sys
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType

from vethd import __version__
from vethd.clients.ip import dispatch
from vethd.clients.single import InstallError, head_of, interpreter, put

MARK = "Made by `vethd-ip install`"
HEAD = ("paths", "ip.line", "process", "ip.dispatch")
"""The modules that every call runs, each after those that it imports."""
REST = (
    *("door", "veth"),
    *("ip.add", "ip.batch", "ip.edit", "ip.grammar", "ip.netns", "ip.nsids", "ip.real", "ip.roads"),
    *("ip.selection", "ip.show", "ip.values"),
)

USUAL = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin")

_FILE = """\
#!{python} -IS
# {mark} (vethd {version}) for {real!r}; install it again after either has changed.
import marshal, posix, sys
class Rest:
    packed = {rest!r}
    def __init__(self):
        import binascii, zlib
        self.codes = marshal.loads(zlib.decompress(binascii.a2b_base64(self.packed)))
    def find_spec(self, name, path, target=None):
        if name in self.codes:
            import _frozen_importlib
            return _frozen_importlib.ModuleSpec(name, self, is_package=not self.codes[name])
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        if self.codes[module.__name__]:
            exec(self.codes[module.__name__], module.__dict__)
def unpack():
    sys.meta_path.insert(0, Rest())
for name, code in marshal.loads({head!r}):
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
posix._exit(module.main({real!r}, unpack))
"""


def is_ours(path: Path) -> bool:
    """Return whether install() wrote a file, or the file is this program itself."""
    head = head_of(path)
    if not head:  # resolve() fails on a symbolic link to itself
        return False
    return MARK.encode() in head or path.resolve() == Path(sys.argv[0]).resolve()


def find_real(not_in: Path | None = None) -> str:
    """Find the real ip: the first `ip` on PATH or in USUAL that is not vethd-ip. Raises InstallError."""
    for directory in (*os.get_exec_path(), *USUAL):
        path = Path(directory, "ip").absolute()
        if not_in is not None and path.parent.resolve() == not_in.resolve():
            continue
        if path.is_file() and os.access(path, os.X_OK) and not is_ours(path):
            return str(path)
    raise InstallError("no ip(8) on PATH: install iproute2, or give its path with --real")


def contents(real: str, python: str) -> bytes:
    """Return the file's contents: source with two pieces of bytecode, for the running interpreter."""
    room = Path(__file__).parents[1]

    def compiled(names: tuple[str, ...]) -> Iterator[tuple[str, CodeType]]:
        for name in names:
            source = room.joinpath(*name.split(".")).with_suffix(".py").read_bytes()
            code = compile(source, f"vethd-ip/{name}", "exec", dont_inherit=True, optimize=2)
            yield f"vethd.clients.{name}", code

    packages: dict[str, CodeType | None] = dict.fromkeys(("vethd", "vethd.clients", "vethd.clients.ip"))
    rest = binascii.b2a_base64(zlib.compress(marshal.dumps(packages | dict(compiled(REST)))), newline=False)
    head = marshal.dumps(list(compiled(HEAD)))
    kept = os.path.abspath(real)  # noqa: PTH100 - keeps a symbolic link as it is
    said = {"mark": MARK, "version": __version__, "real": kept, "python": python}
    return _FILE.format(rest=rest, head=head, **said).encode()


def install(directory: Path, real: str | None = None) -> Path:
    """Write the file `ip` into a directory atomically, over an older one of vethd-ip. Raises InstallError."""
    target = directory / "ip"
    if os.path.lexists(target) and not is_ours(target):
        raise InstallError(f"{target} already exists and was not made by vethd-ip; it was left unchanged")
    if real is None:
        real = find_real(directory)
    elif is_ours(Path(real)) or not os.access(real, os.X_OK):
        raise InstallError(f"{real} is not an executable real ip(8)")
    put(target, partial(contents, real, interpreter()))
    return target


def main() -> None:
    """Run vethd-ip: `install DIR`, or any command line of ip(8)."""
    if sys.argv[1:2] != ["install"]:
        try:
            sys.exit(dispatch.main(find_real(), lambda: None))
        except InstallError as error:
            sys.exit(f"vethd-ip: {error}")
    parser = argparse.ArgumentParser(
        prog="vethd-ip install",
        description="Write a file named ip into DIR. Put DIR first on PATH, so that programs run it as ip(8).",
    )
    parser.add_argument(
        "--real", metavar="IP", help="path of the real ip(8); default: the first on PATH that is not vethd-ip"
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="existing directory for the file")
    asked = parser.parse_args(sys.argv[2:])
    try:
        sys.stdout.write(f"{install(asked.directory, asked.real)}\n")
    except InstallError as error:
        sys.exit(f"vethd-ip: {error}")


if __name__ == "__main__":
    main()
