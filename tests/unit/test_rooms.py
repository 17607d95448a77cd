"""The house rule, read from the syntax trees: arrows between rooms, no circles, a pure model, and how long a file is.

The rooms stand in one line and each imports only from those before it (docs/architecture.md). The checker is tested
first, on small sources that break each rule: a check that cannot fail proves nothing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "vethd"
LINES_MAX = 300

ROOMS = ("model", "kernel", "datapath", "memory", "pairs", "doors", "daemon")
ALLOWED = {
    **{room: tuple(f"vethd.{other}" for other in ROOMS[: number + 1]) for number, room in enumerate(ROOMS)},
    "control": ("vethd.control", "vethd.model", "vethd.kernel.probe", "vethd.datapath.native.why_not"),
    "clients": ("vethd.clients",),
    "": ("vethd",),  # vethd/__init__.py and its like: the house itself
}

IMPURE = frozenset(
    "asyncio concurrent ctypes datetime fcntl http io logging mmap multiprocessing os pathlib pty random resource"  # noqa: SIM905 - or forty lines
    " select selectors shutil signal socket socketserver ssl subprocess tempfile threading time urllib uuid".split()
)
PURE_THIRD_PARTY = frozenset({"vethd", "msgspec"})
OS_ALLOWED = {"errors": {"strerror"}}  # the C library's words for an errno: a table, not an act
IMPURE_CALLS = frozenset({"open", "print", "input", "__import__", "exec", "eval"})


def imports(source: str, package: str) -> Iterator[str]:
    """Yield every module that source imports, at any depth, under its full name.

    package is the one that source's module is in. Of `from vethd.kernel import probe` it gives vethd.kernel.probe:
    the name may be a module's, and an attribute's does no harm. importlib.import_module("...") counts as well.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                stem = ".".join([*base, module] if module else base)
                yield from (f"{stem}.{alias.name}" for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name
            case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def wrong_arrows(source: str, room: str) -> list[str]:
    """Name what a module of room imports from vethd and may not."""
    package = f"vethd.{room}".rstrip(".")
    own = [name for name in imports(source, package) if name.split(".")[0] == "vethd"]
    return [name for name in own if name != "vethd.__version__" and not _within(name, ALLOWED[room])]


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return each set of modules that import each other in a circle, sorted; graph is module -> what it imports.

    Tarjan's algorithm: one walk, each module numbered as it is met; low is the smallest number reachable from it.
    """
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        path.append(module)
        for other in sorted(graph.get(module, ())):
            if other not in number:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in path:
                low[module] = min(low[module], number[other])
        if low[module] == number[module]:
            at = path.index(module)
            found.append(sorted(path[at:]))
            del path[at:]

    for module in graph:
        if module not in number:
            visit(module)
    return [names for names in found if len(names) > 1]


def import_graph(sources: dict[str, tuple[str, str]]) -> dict[str, set[str]]:
    """Return module -> the modules of sources that it imports, lazily or for types alone as well.

    sources is module -> (its package, its source). Of `from a.b import c` that is a.b.c where there is such a module,
    else a.b.
    """
    graph: dict[str, set[str]] = {}
    for module, (package, source) in sources.items():
        found = set()
        for name in imports(source, package):
            whole = name if name in sources else name.rpartition(".")[0]
            if whole in sources and whole != module:
                found.add(whole)
        graph[module] = found
    return graph


def impurities(source: str, stem: str) -> list[str]:
    """Name what the model's module stem does that pure values and rules do not."""
    allowed = OS_ALLOWED.get(stem, set())
    found = []
    for name in imports(source, "vethd.model"):
        top = name.split(".")[0]
        if top == "os":
            found += [] if allowed and name == "os" else [name]
        elif top in IMPURE or (top not in sys.stdlib_module_names and top not in PURE_THIRD_PARTY):
            found.append(name)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=attr) if attr not in allowed:
                found.append(f"os.{attr}")
            case ast.Call(func=ast.Name(id=called)) if called in IMPURE_CALLS:
                found.append(f"{called}()")
            case ast.AsyncFunctionDef(name=defined):
                found.append(f"async def {defined}")
    return found


def lines_over(source: str) -> int:
    """Return by how many lines a module is too long."""
    return max(len(source.splitlines()) - LINES_MAX, 0)


def room_of(path: Path) -> str:
    """Return the room that a module is in, "" for the house itself."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def module_of(path: Path) -> str:
    """Return a module's full name; a package's is its folder's."""
    name = ".".join(("vethd", *path.relative_to(PACKAGE).with_suffix("").parts))
    return name.removesuffix(".__init__")


def package_of(path: Path) -> str:
    """Return the package that a module's relative imports start from."""
    return ".".join(("vethd", *path.relative_to(PACKAGE).parent.parts))


MODULES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in MODULES]


class TestTheChecker:
    @pytest.mark.parametrize(
        ("room", "source"),
        [
            ("model", "import vethd.kernel"),
            ("model", "from vethd.kernel.tun import Tap"),
            ("kernel", "from vethd import pairs"),
            ("kernel", "import vethd"),
            ("datapath", "from vethd.pairs import pair as p"),
            ("datapath", "from ..pairs import pair"),
            ("datapath", "from .. import pairs"),
            ("pairs", "def late():\n    from vethd.doors.http import App"),
            ("pairs", "if TYPE_CHECKING:\n    import vethd.daemon.config"),
            ("doors", "try:\n    import vethd.control.client\nexcept ImportError:\n    pass"),
            ("doors", "import importlib\nimportlib.import_module('vethd.daemon.main')"),
            ("daemon", "from vethd.control import Client"),
            ("control", "from vethd.kernel import tun"),
            ("control", "from vethd.kernel.probes import x"),
            ("control", "from vethd.datapath.native import NativeEngine"),
            ("control", "from vethd.pairs.manager import Manager"),
            ("clients", "from vethd.model.spec import LinkSpec"),
            ("clients", "import vethd.model"),
        ],
    )
    def test_sees_a_wrong_arrow(self, room: str, source: str) -> None:
        assert len(wrong_arrows(source, room)) == 1

    @pytest.mark.parametrize(
        ("room", "source"),
        [
            ("kernel", "from vethd.model.errors import VethError"),
            ("kernel", "from ..model import errors"),
            ("kernel", "from . import uapi\nfrom .tun import Tap\nimport os, socket"),
            ("daemon", "from vethd.doors import http\nfrom vethd.model import spec"),
            ("control", "from vethd.kernel.probe import probe\nfrom vethd.kernel import probe"),
            ("control", "from vethd.datapath.native import why_not"),
            ("control", "from vethd import __version__"),
            ("model", "x = 'import vethd.kernel'  # from vethd.kernel import tun"),
            ("clients", "import json"),
        ],
    )
    def test_lets_a_right_one_be(self, room: str, source: str) -> None:
        assert wrong_arrows(source, room) == []

    @pytest.mark.parametrize(
        ("stem", "source"),
        [
            ("spec", "import os"),
            ("spec", "import os.path"),
            ("errors", "from os import environ"),
            ("errors", "import os\nos.getpid()"),
            ("spec", "from asyncio import sleep"),
            ("spec", "import logging.handlers"),
            ("spec", "def now():\n    import time"),
            ("spec", "import socket as s"),
            ("spec", "import fcntl"),
            ("spec", "import h11"),
            ("spec", "from pyroute2.netlink import nlmsg"),
            ("spec", "open('/proc/self/stat')"),
            ("spec", "print('so')"),
            ("spec", "async def spell(): ..."),
        ],
    )
    def test_sees_an_impurity(self, stem: str, source: str) -> None:
        assert len(impurities(source, stem)) == 1

    @pytest.mark.parametrize(
        ("stem", "source"),
        [
            ("errors", "import errno, os\nos.strerror(2)"),
            ("spec", "import re, struct, msgspec\nfrom vethd.model.errors import VethError"),
        ],
    )
    def test_lets_the_pure_be(self, stem: str, source: str) -> None:
        assert impurities(source, stem) == []

    @pytest.mark.parametrize(
        ("sources", "expected"),
        [
            ({"p.a": "from p import b", "p.b": "import p.a"}, [["p.a", "p.b"]]),
            (
                {"p.a": "from p.b import x", "p.b": "def late():\n    from p.c import y", "p.c": "from . import a"},
                [["p.a", "p.b", "p.c"]],
            ),
            ({"p.a": "if TYPE_CHECKING:\n    from p.b import x", "p.b": "from p.a import y"}, [["p.a", "p.b"]]),
            ({"p": "from p.a import x", "p.a": "from p.b import y", "p.b": ""}, []),
            ({"p.a": "import p.b, p.c", "p.b": "import p.c", "p.c": "import os"}, []),
        ],
    )
    def test_sees_a_circle(self, sources: dict[str, str], expected: list[list[str]]) -> None:
        graph = import_graph({module: ("p", source) for module, source in sources.items()})
        assert circles(graph) == expected

    def test_measures(self) -> None:
        assert lines_over("x\n" * LINES_MAX) == 0
        assert lines_over("x\n" * (LINES_MAX + 2)) == 2

    def test_looks_at_something(self) -> None:
        assert {room_of(path) for path in MODULES} >= {*ROOMS, "control", ""}
        assert not {room_of(path) for path in MODULES} - set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_arrows_point_up(path: Path) -> None:
    assert wrong_arrows(path.read_text(encoding="utf-8"), room_of(path)) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    sources = {module_of(path): (package_of(path), path.read_text(encoding="utf-8")) for path in MODULES}
    assert circles(import_graph(sources)) == []


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) == "model"], ids=lambda path: path.name)
def test_the_model_is_pure(path: Path) -> None:
    assert impurities(path.read_text(encoding="utf-8"), path.stem) == []


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_is_no_longer_than_it_should_be(path: Path) -> None:
    over = lines_over(path.read_text(encoding="utf-8"))
    assert not over, f"{over} lines over {LINES_MAX}: find the two things in it"
