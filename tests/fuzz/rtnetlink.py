"""Datagrams of rtnetlink: only the kernel sends them, and what cannot be read is left out."""

from __future__ import annotations

from vethd.kernel.linkstate import LinkState, parse_link, peek
from vethd.kernel.message import split
from vethd.kernel.uapi import RTM_DELLINK, RTM_NEWLINK


def one_input(data: bytes) -> None:
    """Cut data up, and read every message: pieces of it, and values of their types, or None."""
    taken = 0
    for kind, message in split(data):
        taken += len(message)
        state = parse_link(message)
        if state is None:
            continue
        assert isinstance(state, LinkState)
        assert (kind, state.ifindex) == peek(message)
        assert kind in (RTM_NEWLINK, RTM_DELLINK)
        assert isinstance(state.name, str)
        assert isinstance(state.mtu, int)
        assert isinstance(state.address, str)
        assert isinstance(state.operstate, str)
        assert all(isinstance(name, str) for name in (state.alias, *state.altnames))
        assert all(isinstance(count, int) for count in state.counters)
    assert taken <= len(data)
