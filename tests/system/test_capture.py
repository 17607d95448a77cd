"""vethctl capture, as a user meets it: what is in the file, and what happens when pair, daemon or disk end.

red [va] ==== vethd ==== [vb] blue
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from tests.lib.daemon import PROGRAM, Daemon
from tests.lib.frames import ETH_P_IP, ether, sized, udp
from tests.lib.lab import Wire
from tests.lib.pcapng import Packet, packets, received
from tests.lib.seccomp import without
from tests.lib.site import Site
from tests.lib.site import site as make_site
from tests.lib.sockets import tcp_transfers
from tests.lib.wait import DEADLINE_S, wait_until
from vethd.control.client import Client
from vethd.kernel.abi import bpf_number
from vethd.model.capture import RECEIVED, ROOM_MIN, SENT
from vethd.model.errors import VethError
from vethd.model.insight import CAPTURE_BUFFER_MAX, CaptureSpec

VETHCTL = (sys.executable, "-m", "vethd.control.main")
OUT, IN = 2, 1
NOBODY = 65534


class Net(NamedTuple):
    """A daemon, and the pair va, vb, up, with addresses."""

    site: Site
    wire: Wire
    directory: Path

    def start(self, *words: str, stdout: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start `vethctl capture va WORDS`, and wait until frames are captured."""
        argv = [*VETHCTL, "--socket", str(self.site.socket), "capture", "va", *words]
        before = fds(self.site.daemon)
        process: subprocess.Popen[bytes] = self.site.home.run(
            subprocess.Popen, argv, stdout=stdout, stderr=subprocess.PIPE
        )
        wait_until(lambda: fds(self.site.daemon) > before or process.poll() is not None, what="the capture")
        return process

    def send(self, *frames: bytes) -> None:
        """Send frames from va, each of which arrives before the next one leaves."""
        with self.wire.a.packet() as sock, self.wire.b.packet() as receiver:
            for frame in frames:
                sock.send(frame)
                while receiver.recv().frame != frame:
                    pass

    def file(self, *words: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a capture to a file."""
        path = self.directory / "frames.pcapng"
        process = self.start("-w", str(path), *words)
        wait_until(path.exists, what="the file")
        return process, path


def fds(daemon: Daemon) -> int:
    """Return the number of memfds of captures that the daemon holds."""
    found = 0
    for path in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += "vethd-capture" in str(path.readlink())
    return found


def end(process: subprocess.Popen[bytes], *, status: int = 0, number: int = signal.SIGINT) -> str:
    """End a capture, and return what it said on stderr."""
    if process.poll() is None:
        process.send_signal(number)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == status, said
    return said.decode()


@contextlib.contextmanager
def pair(directory: Path, engine: str, program: Sequence[str]) -> Iterator[Net]:
    """Yield a pair of a daemon. Afterwards the daemon holds no memory of a capture."""
    with make_site(directory, engine) as (site, lab):
        site.program = program
        site.start()
        a, b = lab.netns("a"), lab.netns("b")
        site.post({"name": "va", "netns": a.name, "peer": {"name": "vb", "netns": b.name}})
        wire = lab.wire(a, b)
        wire.up()
        wire.addresses()
        yield Net(site, wire, directory)
        if site.running:
            wait_until(lambda: fds(site.daemon) == 0, what="the end of all captures")


@pytest.fixture
def net(root: None, engine: str, tmp_path: Path) -> Iterator[Net]:  # noqa: ARG001 - the check that we may
    """Yield a pair of each engine's daemon."""
    with pair(tmp_path, engine, PROGRAM) as it:
        yield it


@pytest.fixture
def lesser(root: None, engine: str, tmp_path: Path) -> Iterator[Net]:  # noqa: ARG001 - the check that we may
    """Yield a pair of each engine's daemon without BPF: the engine itself drops what is oversize."""
    with pair(tmp_path, engine, (*without(bpf_number() or 0, errno.EPERM), *PROGRAM)) as it:
        yield it


def shown(found: list[Packet]) -> list[tuple[int, int, bytes]]:
    return [(one.interface, one.flags & 3, one.data) for one in found]


def test_frames_in_a_file(net: Net) -> None:
    """Both directions in order, by interface; the file ends with what was seen."""
    there, back = [sized(100 + n, n) for n in range(50)], [sized(60, n) for n in range(5)]
    process, path = net.file()
    net.send(*there)
    with net.wire.b.packet() as sock, net.wire.a.packet() as receiver:
        for frame in back:
            sock.send(frame)
            while receiver.recv().frame != frame:
                pass
    said = end(process)
    found = [one for one in packets(path.read_bytes()) if one.data[12:14] == b"\x88\xb5"]
    assert shown(found) == [(0, OUT, frame) for frame in there] + [(1, OUT, frame) for frame in back]
    assert [one.time_ns for one in found] == sorted(one.time_ns for one in found)
    assert len({one.number for one in found}) == len(found)
    counts = received(path.read_bytes())
    assert sum(count[3] for count in counts) == len(packets(path.read_bytes()))
    assert all(seen == accepted == kept and lost == 0 for seen, accepted, lost, kept in counts)
    assert said.startswith(f"{len(packets(path.read_bytes()))} frames, 0 not kept, 0 dropped by vethd")
    assert subprocess.run(["tcpdump", "-r", path], capture_output=True, check=False).returncode == 0


def test_both_ends(net: Net) -> None:
    """Each frame as it was read and as it was written, with one number."""
    process, path = net.file("--ends", "both", "ether", "proto", "0x88b5")
    net.send(sized(100, 1), sized(100, 2))
    end(process)
    found = packets(path.read_bytes())
    assert sorted(shown(found)) == sorted(
        [(0, OUT, sized(100, n)) for n in (1, 2)] + [(1, IN, sized(100, n)) for n in (1, 2)]
    )
    assert sorted(one.number for one in found) == sorted(2 * [one.number for one in found if one.interface == 0])


def test_live(net: Net) -> None:
    """What has passed is in the pipe, while the capture goes on."""
    read, write = os.pipe()
    process = net.start("-w", "-", "ether proto 0x88b5", stdout=write)
    os.close(write)
    got = b""
    for number in range(3):
        net.send(sized(100, number))
        while sized(100, number) not in got:
            got += os.read(read, 1 << 16)
    end(process)
    os.close(read)


def test_a_pipe_that_nobody_reads(net: Net) -> None:
    read, write = os.pipe()
    process = net.start("-w", "-", stdout=write)
    os.close(write)
    os.close(read)
    net.send(sized(100))
    process.wait(DEADLINE_S)
    assert "Traceback" not in end(process)


def test_lines(net: Net) -> None:
    with (net.directory / "lines").open("wb") as out:
        process = net.start("-c", "2", "udp port 53", stdout=out)
    question, other = (ether(udp(("10.9.0.1", 4000), ("10.9.0.2", port), b"?"), proto=ETH_P_IP) for port in (53, 54))
    net.send(other, question, other, question)
    process.wait(DEADLINE_S)
    assert end(process).startswith("2 frames")
    lines = (net.directory / "lines").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        f"va > vb  {len(question)} bytes  IPv4 UDP 10.9.0.1:4000 > 10.9.0.2:53"
    ] * 2


def test_snaplen(net: Net) -> None:
    process, path = net.file("-s", "60", "ether proto 0x88b5")
    net.send(sized(1000))
    end(process)
    (found,) = packets(path.read_bytes())
    assert (found.length, found.data) == (1000, sized(1000)[:60])


@pytest.mark.parametrize("checksum", ["complete", "raw"])
def test_checksums(net: Net, checksum: str) -> None:
    """A frame of the stack has no checksum yet; the file has what leaves a real wire."""
    process, path = net.file("--checksum", checksum, "udp")
    with net.wire.a.netns.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x" * 33, ("10.9.0.2", 4000))
    wait_until(lambda: len(packets(path.read_bytes())) == 1, what="the frame")
    end(process)
    text = subprocess.run(["tcpdump", "-vv", "-n", "-r", path], capture_output=True, text=True, check=True).stdout
    assert ("udp sum ok" in text) == (checksum == "complete")


def test_segments(net: Net) -> None:
    """A super-frame of TCP stands in the file as the segments that a device without offloads would send."""
    process, path = net.file("--segment", "--drops", "no", "tcp")
    data = [bytes(100_000)]
    assert tcp_transfers(net.wire.a.netns, net.wire.b.netns, "10.9.0.2", data) == data
    end(process)
    found = [one for one in packets(path.read_bytes()) if one.interface == 0]
    assert all(len(one.data) == one.length <= 1514 for one in found)
    assert len({one.number for one in found}) < len(found)
    text = subprocess.run(["tcpdump", "-vv", "-n", "-r", path], capture_output=True, text=True, check=True).stdout
    assert "(correct)" in text
    assert "incorrect" not in text
    assert "bad cksum" not in text


def test_dropped_frames(lesser: Net) -> None:
    """They stand at the sender's interface, with the reason, the verdict and an error of the link."""
    process, path = lesser.file("ether proto 0x88b5")
    lesser.wire.a.set("mtu 2000")
    with lesser.wire.a.packet() as sock:
        sock.send(sized(1600))
    lesser.send(sized(100))
    said = end(process)
    dropped, passed = packets(path.read_bytes())
    assert (dropped.interface, dropped.data, dropped.dropped) == (0, sized(1600), True)
    assert dropped.comment == "vethd: dropped: oversize: 1600 bytes, vb takes 1518"
    assert dropped.flags == OUT | 1 << 25
    assert (passed.comment, passed.dropped, passed.flags) == ("", False, OUT)
    assert said.startswith("2 frames, 0 not kept, 1 dropped by vethd")


@pytest.mark.parametrize(("drops", "count"), [("only", 1), ("no", 1)])
def test_dropped_frames_only_or_not(lesser: Net, drops: str, count: int) -> None:
    process, path = lesser.file("--drops", drops, "ether proto 0x88b5")
    lesser.wire.a.set("mtu 2000")
    with lesser.wire.a.packet() as sock:
        sock.send(sized(1600))
    lesser.send(sized(100))
    end(process)
    found = packets(path.read_bytes())
    assert [one.dropped for one in found] == [drops == "only"] * count


def test_what_could_not_be_kept_is_told(net: Net) -> None:
    """The consumer stands still: the datapath does not wait, and sent = kept + not kept, exactly."""
    process, path = net.file("--buffer", str(2 * ROOM_MIN), "ether proto 0x88b5")
    process.send_signal(signal.SIGSTOP)
    count = 1000
    net.send(*(sized(1000, n) for n in range(count)))
    process.send_signal(signal.SIGCONT)
    said = end(process)
    found = packets(path.read_bytes())
    ((seen, accepted, lost, kept), _) = received(path.read_bytes())
    assert (accepted, lost + kept, kept) == (count, count, len(found))
    assert 0 < lost < count
    assert seen >= count
    assert f"{kept} frames, {lost} not kept" in said
    assert [one.data for one in found] == [sized(1000, n) for n in range(kept)]


def test_rotation(net: Net) -> None:
    path = net.directory / "row.pcapng"
    process = net.start("-w", str(path), "--rotate-size", "10k", "--files", "2", "ether proto 0x88b5")
    net.send(*(sized(1000, n) for n in range(40)))
    end(process)
    files = sorted(net.directory.glob("row_*.pcapng"))
    assert len(files) == 2
    found = [one.data for file in files for one in packets(file.read_bytes())]
    assert found == [sized(1000, n) for n in range(40)][-len(found) :]
    assert all(file.stat().st_size <= 10_000 + 500 for file in files)
    assert all(received(file.read_bytes()) for file in files)


@pytest.mark.parametrize("how", ["pair", "kill", "stop"])
def test_the_end_of_what_is_captured(net: Net, how: str) -> None:
    """The file is whole, and the capture ends by itself."""
    process, path = net.file("ether proto 0x88b5")
    net.send(sized(100))
    match how:
        case "pair":
            net.wire.a.netns.ip("link del va")
        case "kill":
            net.site.kill()
        case "stop":
            net.site.stop()
    process.wait(DEADLINE_S)
    assert "the capture ended" in end(process)
    assert shown(packets(path.read_bytes())) == [(0, OUT, sized(100))]
    assert len(received(path.read_bytes())) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_whole(net: Net, number: int) -> None:
    process, path = net.file()
    net.send(sized(100))
    end(process, number=number)
    assert len(received(path.read_bytes())) == 2


def test_a_full_disk(net: Net) -> None:
    """One sentence; the file can be read up to where the room ended."""
    process = net.start("-w", "/dev/full")
    process.wait(DEADLINE_S)
    assert end(process, status=4).count("\n") == 1


def test_under_load(net: Net) -> None:
    """A capture of a TCP transfer, headers only: the kept and the lost frames are all that were seen."""
    process, path = net.file("-s", "96", "tcp")
    tcp_transfers(net.wire.a.netns, net.wire.b.netns, "10.9.0.2", [bytes(4 << 20)] * 2)
    end(process)
    counts = received(path.read_bytes())
    for number, (_, accepted, lost, kept) in enumerate(counts):
        assert accepted == lost + kept
        assert len([one for one in packets(path.read_bytes()) if one.interface == number]) == kept


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["va", "no such filter"], 1, "filter"),
        (["vx"], 1, "vethd has no link of that name"),
        (["va", "-c", "0"], 2, "-c"),
        (["va", "-s", "0"], 2, "-s"),
        (["va", "--for", "soon"], 2, "soon"),
        (["va", "--buffer", "1T"], 2, "1T"),
        (["va", "--buffer", "1G"], 2, str(CAPTURE_BUFFER_MAX)),
        (["va", "--files", "2"], 2, "-w FILE"),
        (["va", "--segment"], 2, "--segment"),
        (["va", "--files", "2", "-w", "x"], 2, "--rotate-size"),
        (["va", "-w", "/nowhere/x"], 4, "/nowhere/x: No such file or directory"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_bad_input(net: Net, words: list[str], status: int, said: str) -> None:
    argv = [*VETHCTL, "--socket", str(net.site.socket), "capture", *words]
    done = net.site.home.run(subprocess.run, argv, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


class TestApi:
    """The request itself, by the client library and over HTTP."""

    def test_http_cannot_pass_descriptors(self, net: Net) -> None:
        pair = net.site.pair("va")["id"]
        status, body = net.site.daemon.request("POST", f"/v1/pairs/{pair}/capture", b"{}")
        assert (status, body["code"]) == (400, "EOPNOTSUPP")

    @pytest.mark.parametrize(
        "program", [[(0x15, 5, 5, 0), (6, 0, 0, 0)], [(0x28, 0, 0, 12)], [(6, 0, 0, 0)] * 4097, [(70_000, 0, 0, 0)]]
    )
    def test_a_filter_that_nobody_should_run(self, net: Net, program: list[tuple[int, int, int, int]]) -> None:
        with pytest.raises(VethError) as refusal:
            Client(str(net.site.socket)).capture(net.site.pair("va")["id"], CaptureSpec(filter=program))
        assert refusal.value.errno in (errno.EINVAL, errno.E2BIG)

    def test_by_the_client_library(self, net: Net) -> None:
        with Client(str(net.site.socket)).capture(net.site.pair("va")["id"], CaptureSpec(ends="both")) as running:
            net.send(sized(100))
            frames = [frame for frame in running.take(last=True) if frame.record.data == sized(100)]
            assert [(frame.interface, frame.record.kind) for frame in frames] == [(0, SENT), (1, RECEIVED)]
            running.wait(0.0)
            assert not running.ended

    def test_several_at_once_and_clients_that_vanish(self, net: Net) -> None:
        processes = [net.start() for _ in range(3)]
        for process in processes:
            process.kill()
            process.communicate()
        wait_until(lambda: fds(net.site.daemon) == 0, what="the end of all captures")
        net.send(sized(100))
