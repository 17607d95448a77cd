"""`vethd pair va@red vb@blue`: one pair in the foreground, with neither config nor socket."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.kernel.lib import Net
from tests.lib.lab import Wire
from tests.lib.site import Place, Site, up
from tests.lib.sockets import ping
from tests.lib.wait import DEADLINE_S, wait_until


class Foreground:
    """A `vethd ... pair ...` that forwards; its log is a file."""

    def __init__(self, site: Site, *args: str, fds: tuple[int, ...] = ()) -> None:
        self.log = site.directory / "pair.log"
        argv = [sys.executable, "-m", "vethd.daemon.main", *args]
        with self.log.open("wb") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            start = partial(subprocess.Popen[bytes], process_group=0, pass_fds=fds, **streams)
            self.process = site.home.run(start, argv)
        wait_until(self.forwards, DEADLINE_S, "the word that it forwards")

    def forwards(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return '"forwarding"' in self.log.read_text()

    def end(self, number: int) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@contextmanager
def foreground(site: Site, *args: str, fds: tuple[int, ...] = ()) -> Iterator[Foreground]:
    it = Foreground(site, *args, fds=fds)
    try:
        yield it
    finally:
        if it.process.poll() is None:
            it.process.kill()
            it.process.wait()


@pytest.mark.parametrize(("number", "options"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--engine", "asyncio"))])
def test_forwards_until_told_to_stop(place: Place, number: int, options: tuple[str, ...]) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    with foreground(site, *options, "pair", f"va@{a.name}", f"vb@{b.name}") as it:
        near, far = up(lab.wire(a, b))
        ping(a, near, b, far)
        assert it.end(number) == 0
        assert a.names() | b.names() == set()
        assert "Traceback" not in it.log.read_text()


def test_makes_no_socket_and_reads_no_config(place: Place) -> None:
    """Beside a daemon at the usual path, too."""
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.start()
    with foreground(site, "--socket", str(site.socket), "pair", f"va@{a.name}", f"vb@{b.name}") as it:
        assert site.daemon.pairs() == []
        assert it.end(signal.SIGINT) == 0
    assert site.daemon.request("GET", "/v1/health")[0] == 200


def test_options(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    args = ("--mtu", "9000", "--no-up", "--rx-checksum", "trust")
    with foreground(site, "pair", *args, f"va@{a.name}", f"vb@{b.name}") as it:
        wire = lab.wire(a, b)
        assert (wire.a.link.mtu, wire.b.link.mtu, wire.a.link.up, wire.b.link.up) == (9000, 9000, False, False)
        assert it.end(signal.SIGINT) == 0


def test_latency_queue(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    with foreground(site, "pair", f"va@{a.name}", f"vb@{b.name}", "--latency-queue") as it:
        for netns, name in ((a, "va"), (b, "vb")):
            assert " numqueues 2 " in netns.command("ip", "-d", "link", "show", name)
        assert it.end(signal.SIGINT) == 0


def test_namespaces_by_inherited_fd_and_by_nothing(place: Place) -> None:
    site, _ = place
    net = Net()
    try:
        with foreground(site, "pair", f"va@fd:{net.fd}", "vb", fds=(net.fd,)) as it:
            wait_until(lambda: net.names() == {"va"} and site.home.names() == {"vb"})
            assert it.end(signal.SIGINT) == 0
        assert net.names() | site.home.names() == set()
    finally:
        net.let_go()


@pytest.mark.parametrize("which", ["near", "far"])
def test_deleted_device_ends_it_with_one_sentence(place: Place, which: str) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    with foreground(site, "pair", f"va@{a.name}", f"vb@{b.name}") as it:
        wire: Wire = lab.wire(a, b)
        victim = wire.a if which == "near" else wire.b
        victim.netns.ip(f"link del {victim.name}")
        assert it.process.wait(DEADLINE_S) == 1
        words = [line for line in it.log.read_text().splitlines() if not line.startswith("{")]
        assert words == ["vethd: pair va: an end was deleted, so the pair is gone"]
        assert a.names() | b.names() == set()


def test_netns_that_dies_ends_it(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    with foreground(site, "pair", f"va@{a.name}", f"vb@{b.name}") as it:
        b.delete()
        assert it.process.wait(DEADLINE_S) == 1
        assert a.names() == set()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("va@no-such-netns", "vb"), "no network namespace 'no-such-netns'"),
        (("va", "vb@/dev/null"), "'/dev/null' is not a network namespace"),
        (("va@fd:999", "vb"), "'fd:999' is not an open file descriptor"),
        (("sixteen-bytes-xx", "vb"), "a name has at most 15 bytes"),
        (("va", "va"), os.strerror(errno.EEXIST)),
        (("--mtu", "67", "va", "vb"), "mtu 67 is outside 68..65521"),
    ],
)
def test_refusal_is_one_sentence(place: Place, args: tuple[str, ...], sentence: str) -> None:
    site, _ = place
    done = site.run("pair", *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("vethd: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert site.home.names() == set()


def test_without_the_right_to_it_is_one_sentence(place: Place) -> None:
    site, _ = place
    argv = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", sys.executable, "-m", "vethd.daemon.main"]
    done = site.home.run(
        subprocess.run, [*argv, "pair", "va", "vb"], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("vethd: ")
    assert "CAP_NET_ADMIN" in done.stderr
    assert done.stderr.count("\n") == 1
