"""The native engine's parts: its verdict and its coalescing are the model's, and it knows where it is not built."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib import engines
from tests.lib.judged import LIMITS, frames
from tests.lib.traffic import batches
from vethd.datapath import native as engine
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
    source = (Path(engine.__file__).parent / "_frame.pxd").read_text()
    names = re.search(r"FORWARD = -1\n(.*?)\n    DROPS\n", source, re.DOTALL)
    assert names is not None
    assert names[1].split() == [drop.name for drop in Drop]


def test_here_it_runs(native: ModuleType) -> None:
    assert native.clock_resolution_ns() >= 1
    assert engine.why_not() is None


def test_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_native", None)
    monkeypatch.setattr(engine, "_MISSING", "No module named '_native'")
    assert engine.why_not() == "the native engine is not built (No module named '_native')"


def test_a_coarse_clock_turns_moderation_off(native: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without high-resolution timers a pause of 50 us would take a jiffy."""
    made = engine.NativeEngine(None, moderation_us=50)
    try:
        assert made.moderation_us == 50
        monkeypatch.setattr(native, "clock_resolution_ns", lambda: 4_000_000)
        made.set_times(50, 50)
        assert made.moderation_us == 0
    finally:
        made.close()
