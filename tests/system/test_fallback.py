"""Where the native engine is not built, as on a machine without a compiler, "auto" takes asyncio and says so once.

Asked for by name, it is refused with the reason. Where it is built it runs, whatever a seccomp filter says of io_uring,
and answers to its former name.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import pytest

from tests.lib.daemon import Daemon
from tests.lib.site import Place, up
from tests.lib.sockets import ping
from tests.lib.wait import wait_until
from vethd.control import Client

REPO = Path(__file__).resolve().parents[2]
SOURCE = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "vethd", "tools")
FORBID = """
import os, sys
from tests.lib.seccomp import IO_URING_SETUP, forbid
forbid(IO_URING_SETUP, int(sys.argv[1]))
os.execvp(sys.argv[2], sys.argv[2:])
"""
MAIN = "from vethd.daemon.main import main; main()"
BUILD_S = 600.0
END_S = 60.0
TOLD = "engine native unavailable, using asyncio"
NEW_NAME = "engine has a new name"

Argv = tuple[str, ...]

pytestmark = [pytest.mark.aside, pytest.mark.usefixtures("root")]


def python(tree: Path, script: str) -> Argv:
    """Return the command line of a script that imports from tree."""
    return ("env", f"PYTHONPATH={tree}", sys.executable, "-P", "-c", script)


def vethd(tree: Path) -> Argv:
    """Return the command line of the vethd in tree."""
    return python(tree, MAIN)


def forbidden(code: int) -> Argv:
    """Return the command line of a vethd for which io_uring_setup() fails with code."""
    return (*python(REPO, FORBID), str(code), *vethd(REPO))


def build(directory: Path, *command: str, **env: str) -> None:
    """Run a command of Python's in a copy of the source, made in directory, with no network and no downloads."""
    done = run_in(copy_of_source(directory), sys.executable, *command, **env)
    assert done.returncode == 0, done.stdout + done.stderr


def copy_of_source(directory: Path) -> Path:
    """Return the copy of our source in directory, which is made the first time; nothing that was built is in it."""
    source = directory / "source"
    if not source.exists():
        source.mkdir()
        for name in SOURCE:
            copy = partial(shutil.copytree, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
            (copy if (REPO / name).is_dir() else shutil.copy)(REPO / name, source / name)
    return source


def run_in(source: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, cwd=source, env=os.environ | env, capture_output=True, text=True, timeout=BUILD_S, check=False
    )


@pytest.fixture(scope="module")
def unbuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what pip installs where the compiler fails."""
    directory = tmp_path_factory.mktemp("unbuilt")
    target = directory / "installed"
    pip = ("-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), ".")
    build(directory, *pip, CC="/bin/false")
    return target


@pytest.fixture
def program(unbuilt: Path) -> tuple[Argv, str]:
    """Return how to call a vethd that has no native engine, and words of the reason."""
    return vethd(unbuilt), "the native engine is not built"


def events(log: Path, event: str) -> list[dict[str, str]]:
    """Return the log's lines of this event."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def told(log: Path) -> list[str]:
    """Return the reasons that a log tells, one each time."""
    return [line["reason"] for line in events(log, TOLD)]


def test_auto_forwards_and_says_once_why_by_asyncio(place: Place, program: tuple[Argv, str]) -> None:
    site, lab = place
    argv, words = program
    site.daemon = Daemon(site.directory, site.home, "auto", "--config", str(site.config), program=argv)
    site.running = True
    engine = Client(str(site.socket)).engine()
    assert (engine.name, engine.workers, engine.spin_us) == ("asyncio", 0, None)
    assert engine.fallback.startswith(words)
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.up()
    near, far = wire.addresses()
    ping(wire.a.netns, near, wire.b.netns, far)
    site.hang_up()
    assert told(site.daemon.log) == [engine.fallback]


def test_the_foreground_says_it_once(place: Place, program: tuple[Argv, str]) -> None:
    site, lab = place
    argv, words = program
    a, b = lab.netns("a"), lab.netns("b")
    log = site.directory / "pair.log"
    with log.open("wb") as out:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
        command = [*argv, "--engine", "auto", "pair", f"va@{a.name}", f"vb@{b.name}"]
        process = site.home.run(partial(subprocess.Popen[bytes], process_group=0, **streams), command)
    try:
        wait_until(lambda: '"forwarding"' in log.read_text(), 20.0, "the word that it forwards")
        near, far = up(lab.wire(a, b))
        ping(a, near, b, far)
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 0
    finally:
        process.kill()
        process.wait()
    assert [reason.startswith(words) for reason in told(log)] == [True]


def test_doctor_says_it(unbuilt: Path) -> None:
    argv = [*python(unbuilt, "from vethd.control.main import main; main()"), "doctor", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=END_S, check=True)
    (check,) = [check for check in json.loads(done.stdout) if check["name"] == "engine native"]
    assert (check["ok"], check["required"]) == (False, False)
    assert check["detail"].startswith("the native engine is not built")
    assert check["advice"]


@pytest.mark.parametrize("args", [(), ("pair", "va", "vb")], ids=["daemon", "pair"])
def test_native_is_refused_in_one_sentence(place: Place, program: tuple[Argv, str], args: Argv) -> None:
    site, _ = place
    argv, words = program
    command = [*argv, "--engine", "native", "--socket", str(site.socket), *args]
    done = site.home.run(subprocess.run, command, capture_output=True, text=True, timeout=END_S, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"vethd: engine native: {words}")
    assert len(done.stderr.splitlines()) == 1
    assert not site.socket.exists()
    assert site.home.names() == set()


def test_a_config_that_asks_for_native_is_no_wrong_one(place: Place, program: tuple[Argv, str]) -> None:
    site, _ = place
    site.configure('engine = "native"')
    done = subprocess.run(
        [*program[0], "--config", str(site.config), "--check-config"], capture_output=True, timeout=END_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize("name", ["auto", "native", "uring"])
def test_native_runs_without_io_uring(place: Place, code: int, name: str) -> None:
    """As container runtimes forbid it, and as old kernels lack it; the former name is told once, and works."""
    site, lab = place
    site.daemon = Daemon(site.directory, site.home, name, "--config", str(site.config), program=forbidden(code))
    site.running = True
    engine = Client(str(site.socket)).engine()
    assert (engine.name, engine.moderation_us, engine.fallback) == ("native", 50, "")
    wire = lab.pair(lab.netns("a"), lab.netns("b"))
    wire.up()
    near, far = wire.addresses()
    ping(wire.a.netns, near, wire.b.netns, far)
    site.hang_up()
    said = [(line["former"], line["name"]) for line in events(site.daemon.log, NEW_NAME)]
    assert said == ([("uring", "native")] if name == "uring" else [])
    assert told(site.daemon.log) == []


def test_what_is_distributed(tmp_path: Path) -> None:
    """The wheel has the engine and not its source, the source distribution the source and nothing that was made."""
    pip = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), ".")
    build(tmp_path, *pip)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("vethd/datapath/") for name in archive.namelist() if "/_" in name}
        archive.extractall(tmp_path / "wheel")  # noqa: S202 - made a moment ago
    native = {name for name in names if name.startswith("_") and not name.startswith("__")}
    assert {name.split(".", 1)[0] for name in native} == {"_native"}
    assert {name.rpartition(".")[2] for name in native} == {"so", "pyi"}
    ask = "from vethd.datapath import native; print(native.__file__); print(native.why_not())"
    argv = [sys.executable, "-P", "-c", ask]
    env = os.environ | {"PYTHONPATH": str(tmp_path / "wheel")}
    answer = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.split("\n")
    assert answer == [str(tmp_path / "wheel" / "vethd" / "datapath" / "native.py"), "None", ""]

    build(tmp_path, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})")
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(REPO)) for path in (REPO / "vethd" / "datapath").glob("*.p[xy][xdi]")}
    assert {f"vethd/datapath/_{name}" for name in ("native.pyx", "native.pyi", "spec.pxi", "poll.pxd")} <= sources
    assert sources | {"setup.py", "pyproject.toml"} <= inside
    assert not [name for name in inside if name.endswith((".c", ".so", ".o"))]


def test_make_builds_what_changed_and_does_without_what_it_cannot(tmp_path: Path) -> None:
    """tools/native: built once; no older one stays where a new one cannot be built; an error in the source is told."""
    source = copy_of_source(tmp_path)
    native = partial(run_in, source, "tools/native", sys.prefix, PYTHONPATH=str(source), PYTHONSAFEPATH="1")

    def built() -> list[tuple[Path, int]]:
        return [(path, path.stat().st_mtime_ns) for path in (source / "vethd" / "datapath").glob("*.so")]

    done = native()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first = built()
    assert len(first) == 1
    assert native().returncode == 0
    assert built() == first
    (source / "vethd" / "datapath" / "_poll.pxd").touch()
    done = native(CC="/bin/false")
    assert (done.returncode, done.stderr, built()) == (0, "", [])
    assert done.stdout.startswith("setup: the native engine could not be built, so vethd uses the asyncio engine (")
    assert len(done.stdout.splitlines()) == 1
    with (source / "vethd" / "datapath" / "_native.pyx").open("a") as file:
        file.write("cdef int wrong(:\n")
    done = native()
    assert done.returncode == 1
    assert done.stderr.endswith("setup: the native engine's source has an error (see above)\n")
