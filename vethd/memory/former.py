"""What a release before record version 3 left on devices for people to read, and where this release keeps it.

Up to version 2 every end had the altname NAME@PEER and an alias that named its peer, and the host's end of a
container's attachment had its identity as alias. Both did harm: an altname takes part in the kernel's uniqueness rules,
and LLDP, SNMP and routing daemons publish an alias. Now the API tells the peer, and the record keeps the attachment. A
takeover reads the old words once and removes them from the devices (adoption.py).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from vethd.model.api import AttachmentKey
from vethd.model.record import EndRecord, PairRecord

SINCE = 3
"""The first version of the record whose writer puts nothing on devices."""
_MARK = "cni"


class Words(NamedTuple):
    """What the former release wrote on one device; "" for nothing."""

    alias: str
    altname: str


def attachment_of(alias: str | None) -> AttachmentKey | None:
    """Read an attachment's identity from the alias of its host's end; None where the alias says something else."""
    words = (alias or "").split(" ")
    return AttachmentKey(*words[1:]) if len(words) == 4 and words[0] == _MARK else None


def brought_up_to_date(pair: PairRecord) -> tuple[PairRecord, tuple[Words, Words]]:
    """Return a former release's record as this one would have written it, and what is to be removed from both devices.

    An attachment that was saved is a run-time pair: the container runtime makes it again, not the daemon.
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
