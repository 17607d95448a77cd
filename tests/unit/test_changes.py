"""A change that is refused halfway, and cannot be undone."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from structlog.testing import capture_logs

from vethd.model.errors import VethError
from vethd.model.spec import LinkSpec
from vethd.model.state import Side
from vethd.pairs import changes


@pytest.mark.parametrize(("number", "told"), [(errno.EBUSY, ["change not undone"]), (errno.ENODEV, [])])
def test_what_cannot_be_undone_is_logged(number: int, told: list[str]) -> None:
    refused = VethError(errno.EINVAL, "changelink", "va", "refused")
    state = SimpleNamespace(name="va", altnames=(), address="", mtu=1500, txqueuelen=1000, group=0, alias="", master=0)
    vars(state).update(up=False, arp=True, multicast=True, allmulticast=False, promisc=False, addrgenmode=None)
    vars(state).update(gso_max_size=1, gso_max_segs=1, gro_max_size=1)
    nursery: Any = MagicMock()
    nursery.locate.return_value = SimpleNamespace(state=state, netns_inode=1)
    nursery.name_of.return_value = ""
    nursery.change.side_effect = [refused, VethError(number, "changelink", "va")]
    link: Any = MagicMock(state=state)
    link.tap.netns_fd = lambda: os.dup(0)
    with capture_logs() as lines, pytest.raises(VethError) as caught:
        changes.apply(nursery, (link, link), [(Side.NEAR, LinkSpec(mtu=1400))], None)
    assert caught.value is refused
    assert nursery.change.call_args.args[1] == LinkSpec(mtu=1500)
    assert [line["event"] for line in lines] == told
