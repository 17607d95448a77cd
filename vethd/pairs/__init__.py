"""Living pairs: make devices from specs, and turn events into effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vethd.pairs.library import open_pair

__all__ = ["open_pair"]


def __getattr__(name: str) -> Any:
    """Import open_pair on first use: its import would delay the frames of a daemon that takes over (takeover.py)."""
    if name != "open_pair":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vethd.pairs.library import open_pair  # noqa: PLC0415

    return open_pair
