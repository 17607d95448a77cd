"""What a former release wrote on devices: read from its record, byte for byte, and turned into what this one keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from vethd.memory.former import SINCE, Words, attachment_of, brought_up_to_date
from vethd.model.api import AttachmentKey
from vethd.model.record import decode
from vethd.model.spec import PairSpec

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("alias", [None, "", "peer vb ifindex 2 netns red", "cni a b", "cni a b c d", "dni a b c"])
def test_other_aliases_name_no_attachment(alias: str | None) -> None:
    assert attachment_of(alias) is None


def test_version_2_is_brought_up_to_date() -> None:
    record = decode((DATA / "record-v2.bin").read_bytes())
    assert (record.version, record.untold) == (2, [])
    assert record.version < SINCE
    mine, container, users = (brought_up_to_date(pair) for pair in record.pairs)

    pair, words = mine
    assert pair == record.pairs[0], "the user's alias, mine, stays in the spec"
    assert words == (Words("", "va@vb"), Words("peer va ifindex 3 netns red", "vb@va"))

    pair, words = container
    key = AttachmentKey("podman", "7839460b", "eth0")
    assert (pair.attachment, pair.source) == (key, "runtime")
    assert isinstance(pair.spec, PairSpec)
    assert (pair.spec.alias, pair.spec.master) == (None, "cni-podman0")
    assert words == (
        Words("cni podman 7839460b eth0", "veth0@eth0"),
        Words("peer veth0 ifindex 3 netns -", "eth0@veth0"),
    )

    pair, words = users
    assert (pair.attachment, pair.spec and pair.spec.alias) == (None, "cni a b eth0"), "another user's word is a word"
    assert words[0] == Words("", "ua@ub")


def test_version_1_is_brought_up_to_date() -> None:
    record = decode((DATA / "record-v1.bin").read_bytes())
    pair, words = brought_up_to_date(record.pairs[0])
    assert pair == record.pairs[0]
    assert words[0] == Words("peer vb ifindex 2 netns blue", "va@vb")
