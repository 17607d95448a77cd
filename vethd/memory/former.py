"""Convert records older than version 3, whose writers set an alias and an altname on every device.

Up to version 2 every end had the altname NAME@PEER and an alias that named its peer. On the host's end of a container's
attachment the alias held the attachment's identity. Both caused faults: an altname takes part in the kernel's
uniqueness rules, and LLDP, SNMP and routing daemons publish an alias. Since version 3 the API reports the peer, and the
record stores the attachment. A takeover reads the old alias and altname once and removes them from the devices
(adoption.py).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from vethd.model.api import AttachmentKey
from vethd.model.record import EndRecord, PairRecord

SINCE = 3
"""The first record version whose writer sets no alias and no altname of its own on devices."""
_MARK = "cni"


class Words(NamedTuple):
    """The alias and the altname that the former release set on one device; "" means none."""

    alias: str
    altname: str


def attachment_of(alias: str | None) -> AttachmentKey | None:
    """Parse an attachment's identity from the alias of its host's end; None if the alias is not such an identity."""
    words = (alias or "").split(" ")
    return AttachmentKey(*words[1:]) if len(words) == 4 and words[0] == _MARK else None


def brought_up_to_date(pair: PairRecord) -> tuple[PairRecord, tuple[Words, Words]]:
    """Convert a former release's record to the present form; also return the words to remove from both devices.

    A saved attachment becomes a run-time pair: the container runtime makes it again, not the daemon.
    """
    near, far = (_words(end) for end in pair.ends)
    key = attachment_of(pair.spec.alias) if pair.spec is not None and not pair.owner else None
    if key is not None and pair.spec is not None:
        near = near._replace(alias=pair.spec.alias or "")
        spec = msgspec.structs.replace(pair.spec, alias=None)
        source = "runtime" if pair.source == "saved" else pair.source
        pair = msgspec.structs.replace(pair, spec=spec, source=source, attachment=key)
    return pair, (near, far)


def _words(end: EndRecord) -> Words:
    return Words("" if end.own_alias else end.alias, end.altname)
