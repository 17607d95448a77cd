"""Bytes for a target, by hypothesis: what the corpus has, altered in some places; or anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

TARGETS = ("config", "requests", "rtnetlink", "record", "frames")
CORPUS = Path(__file__).with_name("corpus")
_EDITS = 6
_ODD = (b"\0", b"\xff", b"\xff\xff\xff\x7f", b'"', b"{", b"[[", b"fd:0", b"null", b"-1", b"1e999", b"\\ud800", b"\xc3")


def corpus(target: str) -> list[Path]:
    """Return the files of a target's corpus."""
    return sorted((CORPUS / target).iterdir())


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Return a seed with some bytes overwritten, put in, taken out or repeated."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, _EDITS))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.sampled_from(_ODD) | st.binary(max_size=8))
        length = draw(st.integers(0, 40))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + len(piece)] = piece
            case 1:
                data[at:at] = piece
            case 2:
                del data[at : at + length]
            case _:
                data[at:at] = data[at : at + length]
    return bytes(data)
