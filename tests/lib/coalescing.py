"""Segments for tests of coalescing, and what the model makes of them."""

from __future__ import annotations

from tests.lib.segments import TCP, Segment
from tests.lib.traffic import what_leaves
from vethd.model.gro import coalesce

U4, U6 = Segment(), Segment(src="fd00::1", dst="fd00::2")
T4, T6 = U4.but(proto=TCP, options=b"\x01\x01\x08\x0a12345678"), U6.but(proto=TCP)
KINDS = {"udp4": U4, "udp6": U6, "tcp4": T4, "tcp6": T6}


def counts(*segments: Segment | bytes) -> list[int]:
    """Coalesce; return how many frames each thing written holds. What it leaves must be what went in."""
    batch = [segment if isinstance(segment, bytes) else segment.data() for segment in segments]
    out = coalesce(batch, 10)
    assert what_leaves(batch, [data for data, _ in out], 10) == what_leaves(batch, batch, 10)
    assert all(data in batch for data, frames in out if frames == 1)
    return [frames for _, frames in out]
