"""Living pairs: specs become devices, events become effects."""

from vethd.pairs.library import open_pair

__all__ = ["open_pair"]
