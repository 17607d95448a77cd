"""The native engine's parts: its verdict and its coalescing are the model's, and it knows where it cannot run."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib import engines
from tests.lib.judged import LIMITS, frames
from tests.lib.seccomp import IO_URING_SETUP
from tests.lib.traffic import batches
from vethd.datapath import uring
from vethd.model.drops import Drop
from vethd.model.gro import coalesce
from vethd.model.verdict import ETH_HLEN, Road, verdict

FORWARD = -1
LONGEST = 65535 + ETH_HLEN  # of a frame; a limit that none is beyond


@pytest.fixture(scope="module")
def native() -> ModuleType:
    return engines.native()


def judged(native: ModuleType, data: bytes, road: Road) -> tuple[Drop | None, bytes]:
    """Return what the native verdict says, as the model would."""
    drop, written = native.verdict(data, road.vnet_hdr_len, road.limit, road.trust)
    return None if drop == FORWARD else Drop(drop), written


@pytest.mark.parametrize("vnet_hdr_len", [10, 24])
@settings(max_examples=2000, deadline=None)
@given(data=st.data(), limit=st.sampled_from(LIMITS), trust=st.booleans())
def test_verdict_is_the_model_s(
    native: ModuleType, vnet_hdr_len: int, data: st.DataObject, limit: int, trust: bool
) -> None:
    one = data.draw(frames(vnet_hdr_len))
    road = Road(None, limit, trust, vnet_hdr_len)
    drop, flags = verdict(one, road)
    assert judged(native, one, road) == (drop, bytes([flags]) + one[1:] if drop is None else one)


@pytest.mark.parametrize("vnet_hdr_len", [10, 24])
@settings(max_examples=1000, deadline=None)
@given(
    header=st.binary(min_size=24, max_size=24), ethertype=st.binary(min_size=2, max_size=2), length=st.integers(14, 99)
)
def test_verdict_on_any_header(
    native: ModuleType, vnet_hdr_len: int, header: bytes, ethertype: bytes, length: int
) -> None:
    one = header[:vnet_hdr_len] + bytes(12) + ethertype + bytes(length - ETH_HLEN)
    road = Road(None, LIMITS[1], trust=True, vnet_hdr_len=vnet_hdr_len)
    drop, flags = verdict(one, road)
    assert judged(native, one, road) == (drop, bytes([flags]) + one[1:] if drop is None else one)


@pytest.mark.parametrize("vnet_hdr_len", [10, 24])
@settings(max_examples=400, deadline=None)
@given(data=st.data(), udp=st.booleans())
def test_coalescing_is_the_model_s(native: ModuleType, vnet_hdr_len: int, data: st.DataObject, udp: bool) -> None:
    """Of what the verdict forwards: nothing else is ever offered to it."""
    road = Road(None, LONGEST, vnet_hdr_len=vnet_hdr_len)
    batch = [one for one in data.draw(batches(vnet_hdr_len)) if verdict(one, road).drop is None]
    told = coalesce(batch, vnet_hdr_len, udp=udp)
    assert native.coalesce(batch, vnet_hdr_len, udp) == [tuple(one) for one in told]


@settings(max_examples=300, deadline=None)
@given(
    bodies=st.lists(st.binary(min_size=ETH_HLEN, max_size=120), max_size=64),
    kind=st.sampled_from((b"\x08\x00E", b"\x86\xdd`")),
)
def test_coalescing_of_anything(native: ModuleType, bodies: list[bytes], kind: bytes) -> None:
    """Of headers in which nothing is as it should be, cut off anywhere."""
    batch = [b"\1" + bytes(9) + (bytes(12) + kind + body)[: len(body)] for body in bodies]
    assert native.coalesce(batch, 10) == [tuple(one) for one in coalesce(batch, 10)]


def test_drops_are_the_model_s() -> None:
    """By their places: the extension is built with numbers of its own."""
    source = (Path(uring.__file__).parent / "_frame.pxd").read_text()
    names = re.search(r"FORWARD = -1\n(.*?)\n    DROPS\n", source, re.DOTALL)
    assert names is not None
    assert names[1].split() == [drop.name for drop in Drop]


def test_here_it_runs(native: ModuleType) -> None:
    assert native.probe() == 0
    assert uring.why_not() is None


def test_a_tun_driver_of_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes no RWF_NOWAIT, as Linux 6.1's: the engine runs, and reads plainly."""
    assert not uring.plain()
    monkeypatch.setattr(uring, "_uring", SimpleNamespace(probe=lambda: errno.EOPNOTSUPP))
    assert uring.why_not() is None
    assert uring.plain()


def test_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "_uring", None)
    monkeypatch.setattr(uring, "_MISSING", "No module named '_uring'")
    assert uring.why_not() == ("the native engine is not built (No module named '_uring')", False)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSYS, "no io_uring"),
        (errno.EPERM, "io_uring is forbidden"),
        (errno.EACCES, "io_uring is forbidden"),
        (errno.ENOMEM, r"does not work here \(ENOMEM\)"),
    ],
)
def test_forbidden(code: int, words: str) -> None:
    """By a seccomp filter, in a process of its own: why_not() says so, and who makes it all the same gets the errno."""
    script = f"""
import asyncio
from tests.lib.seccomp import forbid
from vethd.datapath import uring
forbid({IO_URING_SETUP}, {code})
print(uring.why_not())
loop = asyncio.new_event_loop()
try:
    uring.UringEngine(loop)
except OSError as error:
    print(error.errno)
loop.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said, raised = done.stdout.splitlines()
    assert re.search(words, said)
    assert int(raised) == code


def test_probe_leaves_nothing(native: ModuleType) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    for _ in range(20):
        assert native.probe() == 0
    assert sorted(Path("/proc/self/fd").iterdir()) == before
