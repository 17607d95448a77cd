"""The daemon's own life: how it ends, what it leaves, and how it starts where another was or is."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.lib.daemon import UnixConnection
from tests.lib.lab import End, Wire
from tests.lib.site import Place, alive, fd_call, toml_pair
from tests.lib.wait import DEADLINE_S, wait_until
from vethd.model.api import PairEvent


def test_sigterm_ends_within_seconds_whoever_is_connected(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    site.wait_state("va", "alive")
    deaf = UnixConnection(site.socket)
    deaf.request("GET", "/v1/events")
    response = deaf.getresponse()
    mute, stream = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mute.connect(str(site.socket))
    mute.send(b"POST /v1/pairs HTTP/1.1\r\nContent-Le")
    stream.connect(f"{site.socket}.fd")
    lab.wire(a, b).a.netns.ip(*(f"link set dev va mtu {1400 + n % 2}" for n in range(4000)))
    site.stop()
    for sock in (mute, stream):
        sock.close()
    response.close()
    deaf.close()
    assert (a.names(), b.names()) == (set(), set())
    assert sorted(path.name for path in site.directory.iterdir()) == ["vethd.log", "vethd.toml"]


def test_sigterm_ends_events_in_good_order(place: Place) -> None:
    """A listener sees the end of the stream, not a broken one."""
    site, _ = place
    site.start()
    with closing(UnixConnection(site.socket)) as listener:
        listener.request("GET", "/v1/events")
        with listener.getresponse() as response:
            site.stop()
            for line in response.read().splitlines():
                msgspec.json.decode(line, type=PairEvent)


def test_killed_daemon_leaves_only_files_that_the_next_takes_over(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    site.wait_state("va", "alive")
    site.kill()
    assert site.socket.is_socket(), "stale"
    wait_until(lambda: a.names() | b.names() == set(), what="devices gone with their fds")
    site.start()
    site.wait_state("va", "alive")
    alive(lab.wire(a, b))
    assert fd_call(site.socket, "GET", "/v1/health")[1]["pid"] == site.daemon.pid


def test_second_daemon_is_refused_and_the_first_unharmed(place: Place) -> None:
    site, lab = place
    a, b = lab.netns("a"), lab.netns("b")
    site.configure(toml_pair(("va", a.name), ("vb", b.name)))
    site.start()
    site.wait_state("va", "alive")
    before = (site.socket.stat().st_ino, lab.wire(a, b).a.link.ifindex)
    done = site.run("--socket", str(site.socket), "--config", str(site.config))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"vethd: listen: another vethd serves {site.socket}\n"
    assert (site.socket.stat().st_ino, lab.wire(a, b).a.link.ifindex) == before
    assert fd_call(site.socket, "GET", "/v1/health")[1]["pid"] == site.daemon.pid
    alive(lab.wire(a, b))


@pytest.mark.parametrize("what", ["file", "directory", "no parent", "too long"])
def test_socket_path_that_cannot_be(place: Place, tmp_path: Path, what: str) -> None:
    """One sentence, and whatever is there stays as it is."""
    site, _ = place
    path = tmp_path / "in-the-way"
    if what == "file":
        path.write_text("mine")
    elif what == "directory":
        path.mkdir()
    elif what == "no parent":
        (tmp_path / "file").write_text("mine")
        path = tmp_path / "file" / "sock"
    else:
        path = tmp_path / ("x" * 120)
    before = sorted(os.listdir(tmp_path))  # noqa: PTH208 - names are what is compared
    done = site.run("--socket", str(path), "--config", str(site.config))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("vethd: listen: ")
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before  # noqa: PTH208 - names are what is compared


def test_mode_and_group_of_the_sockets(place: Place) -> None:
    site, _ = place
    site.configure('socket_mode = "0604"\nsocket_group = "daemon"')
    site.start()
    for path in (site.socket, Path(f"{site.socket}.fd")):
        assert path.stat().st_mode & 0o777 == 0o604
        assert path.group() == "daemon"


def test_group_that_is_not(place: Place) -> None:
    site, _ = place
    site.configure('socket_group = "no-such-group"')
    done = site.run("--socket", str(site.socket), "--config", str(site.config))
    assert done.returncode == 1
    assert done.stderr == "vethd: listen: socket_group: no such group: 'no-such-group'\n"
    assert [path.name for path in site.directory.iterdir()] == ["vethd.toml"]


def test_a_netns_as_home_is_not_pinned(place: Place) -> None:
    """Where the daemon lives it makes devices without a move, and finds them by an empty name."""
    site, lab = place
    b = lab.netns("b")
    site.configure(toml_pair(("va", ""), ("vb", b.name)))
    site.start()
    pair = site.wait_state("va", "alive")
    assert [link["netns"] for link in pair["links"]] == ["", b.name]
    alive(Wire(End(site.home, "va"), End(b, "vb")))
    site.daemon.process.send_signal(signal.SIGTERM)
    assert site.daemon.process.wait(DEADLINE_S) == 0
    site.running = False
    assert site.home.names() == set()
