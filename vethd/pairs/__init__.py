"""Living pairs: specs become devices, events become effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vethd.pairs.library import open_pair

__all__ = ["open_pair"]


def __getattr__(name: str) -> Any:
    """Import open_pair when it is asked for: a daemon that takes over (takeover.py) has no time for it first."""
    if name != "open_pair":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vethd.pairs.library import open_pair  # noqa: PLC0415

    return open_pair
