"""Frames for a verdict, by hypothesis: around every border, behind headers that a TAP takes and that it refuses."""

from __future__ import annotations

from hypothesis import strategies as st

from vethd.model.verdict import forward_limit
from vethd.model.vnet import VnetHdr

LIMITS = (forward_limit(68), 90, 100)
# no header, no Ethernet header, the limits, the limits with a tag
LENGTHS = st.one_of(st.integers(0, 30), st.sampled_from([n + d for n in LIMITS for d in (-1, 0, 1, 3, 4, 5)]))
HEADERS = st.builds(
    VnetHdr,
    flags=st.sampled_from((0, 0, 0, 1, 2, 3, 0x80, 0xFF)),
    gso_type=st.sampled_from((0, 0, 0, 1, 2, 3, 4, 5, 0x20, 0x21, 0x61, 0x80, 0x81, 0x85, 0xFF)),
    hdr_len=st.sampled_from((0, 0, 14, 54, 66, 86, 94, 0xFFFF)),
    gso_size=st.sampled_from((0, 1, 1448, 0xFFFF)),
    csum_start=st.sampled_from((0, 34, 54, 84, 0xFFFF)),
    csum_offset=st.sampled_from((0, 6, 16, 0xFFFF)),
)
ETHERTYPES = st.sampled_from((b"\x08\x00", b"\x81\x00", b"\x88\xa8", b"\x86\xdd", b"\x00\x81"))


@st.composite
def frames(draw: st.DrawFn, vnet_hdr_len: int) -> bytes:
    """Return a header, or a part of one, and a frame."""
    length = draw(LENGTHS)
    body = (draw(st.binary(min_size=12, max_size=12)) + draw(ETHERTYPES) + bytes(range(256))[:length])[:length]
    tail = draw(st.binary(min_size=14, max_size=14))
    data = (draw(HEADERS).pack() + tail)[:vnet_hdr_len] + body
    # an empty message would be the end of the stream to a reader of sockets
    return data[: draw(st.integers(1, vnet_hdr_len))] if draw(st.integers(0, 9)) == 0 else data
