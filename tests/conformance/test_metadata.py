"""What travels beside a frame: fields of its sk_buff, its socket, its pages, its timestamps.

    sender -> va [recorder at egress] ==== [recorder at ingress] vb

Both ends are in one namespace, or each in its own: veth takes more away between two. Kernel: veth_xmit(),
____dev_forward_skb(), skb_scrub_packet(); tun_net_xmit() keeps nothing but the bytes and the virtio_net_hdr.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.lib import bpf
from tests.lib.held import tcp_pair
from tests.lib.hooks import EGRESS, TC_ACT_SHOT, tc
from tests.lib.lab import Lab, Wire
from tests.lib.skb import Recorder, writing
from tests.lib.wait import DEADLINE_S, wait_until

NOBODY = 65534
SO_MARK, SO_COOKIE, SO_ZEROCOPY, SO_TXTIME, SO_TIMESTAMPING = 36, 57, 60, 61, 37
MSG_ZEROCOPY = 0x4000000
IP_RECVERR = 11
SO_EE_ORIGIN_ZEROCOPY, SO_EE_CODE_ZEROCOPY_COPIED = 5, 1
SOF_TX_SOFTWARE, SOF_SOFTWARE, SOF_OPT_TSONLY = 1 << 1, 1 << 4, 1 << 11
MARK, PRIORITY, TXTIME_NS, CB, TC_INDEX = 7, 6, 5, 0x1234, 3
PAGE = 4096
_EXTENDED_ERR = struct.Struct("=IBBBBII")  # sock_extended_err: errno, origin, type, code, pad, info, data


@pytest.fixture(params=["same", "across"])
def place(request: pytest.FixtureRequest) -> str:
    """Return where the peer is: in the same namespace, or across a border."""
    return str(request.param)


@pytest.fixture
def pair(lab: Lab, place: str) -> Wire:
    """Return a live pair over which va's namespace sends to 10.9.0.2, wherever that is."""
    a = lab.netns("a")
    wire = lab.pair(a, a if place == "same" else lab.netns("b"))
    wire.up()
    wire.a.address("10.9.0.1/24")
    if place == "across":
        wire.b.address("10.9.0.2/24")
    a.ip(f"neigh add 10.9.0.2 lladdr {wire.b.link.address} dev va")
    return wire


@contextmanager
def sending(wire: Wire, uid: int = 0) -> Iterator[socket.socket]:
    """Yield a UDP socket of that user which sends out of va."""

    def opened() -> socket.socket:
        libc = ctypes.CDLL(None)
        libc.setfsuid(uid)  # of this thread, which ends here
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with wire.a.netns.run(opened) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, wire.a.name.encode() + b"\0")
        sock.connect(("10.9.0.2", 9))
        yield sock


def test_fields(lab: Lab, pair: Wire, place: str) -> None:
    """Each field that is not zero where the frame leaves, and the same where it comes."""
    tc(pair.a, writing({"cb": CB, "tc_index": TC_INDEX}), EGRESS)
    with ExitStack() as stack:
        leaving = stack.enter_context(Recorder(pair.a, EGRESS, priority=2))
        coming = stack.enter_context(Recorder(pair.b))
        sock = stack.enter_context(sending(pair, NOBODY))
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
        sock.setsockopt(socket.SOL_SOCKET, SO_TXTIME, struct.pack("iI", 1, 0))  # CLOCK_MONOTONIC
        sock.sendmsg([bytes(100)], [(socket.SOL_SOCKET, SO_TXTIME, struct.pack("Q", TXTIME_NS))])
        here, there = leaving.wait(1), coming.wait(1)
        cookie = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]
    said = {"mark": MARK, "priority": PRIORITY, "tstamp": TXTIME_NS, "cb": CB, "tc_index": TC_INDEX}
    said |= {"uid": NOBODY, "cookie": cookie}
    assert {name: here[name] for name in said} == said
    handed_on = {name for name, value in here.items() if value and there[name] == value}
    expected = {"len", "hash", "tstamp", "tstamp_type", "cb", "tc_index", "cookie", "uid"}
    if place == "same":
        expected.add("mark")
    if lab.backend.differs("mark-ends-at-the-tap"):
        expected.discard("mark")
    if lab.backend.differs("hash-is-computed-anew"):
        expected.discard("hash")
    if lab.backend.differs("txtime-ends-at-the-tap"):
        expected -= {"tstamp", "tstamp_type"}
    if lab.backend.differs("socket-ends-at-the-tap"):
        expected -= {"cookie", "uid"}
    if lab.backend.differs("tc-fields-end-at-the-tap"):
        expected -= {"cb", "tc_index"}
    # tc's ingress counts without the Ethernet header
    assert handed_on == expected
    assert there["wire_len"] == there["len"] - 14
    came_new = {name for name, value in there.items() if value and not here[name]}
    assert came_new == ({"queue_mapping"} if lab.backend.differs("rx-queue-is-recorded") else set())


def test_timestamp_of_sending(pair: Wire) -> None:
    """SO_TIMESTAMPING tells when the device had the frame, in software."""
    with sending(pair) as sock:
        wanted = SOF_TX_SOFTWARE | SOF_SOFTWARE | SOF_OPT_TSONLY
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, wanted)
        sock.send(bytes(100))
        stamp = error_of(sock, socket.SOL_SOCKET, SO_TIMESTAMPING)
    assert struct.unpack_from("=q", stamp)[0] > 0


def test_zerocopy_of_what_no_socket_gets(lab: Lab, pair: Wire) -> None:
    """MSG_ZEROCOPY says whether the kernel copied after all; for a local receiver's socket it always does."""
    tc(pair.b, bpf.returning(TC_ACT_SHOT))
    with sending(pair) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        sock.send(bytes(1000), MSG_ZEROCOPY)
        error = error_of(sock, socket.IPPROTO_IP, IP_RECVERR)
    _, origin, _, code, _, _, _ = _EXTENDED_ERR.unpack_from(error)
    copied = lab.backend.differs("pages-are-copied")
    assert (origin, code) == (SO_EE_ORIGIN_ZEROCOPY, SO_EE_CODE_ZEROCOPY_COPIED if copied else 0)


def test_page_of_a_file_that_changes_under_way(lab: Lab, live: Wire, tmp_path: Path) -> None:
    """sendfile() hands over the file's pages themselves: veth's receiver reads them as they are by then."""
    _, far = live.addresses()
    file = tmp_path / "page"
    file.write_bytes(b"A" * PAGE)
    with tcp_pair(live.a.netns, live.b.netns, far) as (left, right), file.open("r+b", 0) as opened:
        assert os.sendfile(left.fileno(), opened.fileno(), 0, PAGE) == PAGE
        wait_until(lambda: waiting(right) == PAGE, what="the page at its receiver")
        opened.write(b"B" * PAGE)
        assert right.recv(PAGE) == (b"A" if lab.backend.differs("pages-are-copied") else b"B") * PAGE


def waiting(sock: socket.socket) -> int:
    """Count the bytes that the socket has and nobody has read."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0])


def error_of(sock: socket.socket, level: int, kind: int) -> bytes:
    """Wait for the next message of the error queue, and return its ancillary data of that kind."""
    poller = select.poll()
    poller.register(sock, 0)  # POLLERR comes unasked
    assert poller.poll(DEADLINE_S * 1000), "nothing in the error queue"
    (found,) = (data for *which, data in sock.recvmsg(1, 1024, socket.MSG_ERRQUEUE)[1] if which == [level, kind])
    return found
