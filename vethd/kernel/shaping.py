"""Limits the rate at which a link sends, with a token bucket (tc-tbf(8)); for worker threads."""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from vethd.kernel.message import TCMSG, attr, attributes, nest, read, text, u32
from vethd.kernel.rtnl import Rtnl
from vethd.kernel.uapi import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    RTM_GETQDISC,
    RTM_NEWQDISC,
    TC_H_ROOT,
    TC_LINKLAYER_ETHERNET,
    TCA_KIND,
    TCA_OPTIONS,
    TCA_TBF_BURST,
    TCA_TBF_PARMS,
)
from vethd.model.errors import VethError

_HANDLE = 1 << 16  # "1:"
_LATENCY_S = 0.025
# struct tc_tbf_qopt: a tc_ratespec (link layer, rate in bytes per second), none for peaks, limit in bytes
_QOPT = struct.Struct("=xB6xI12xI8x")


class Bucket(NamedTuple):
    """A rate in bytes per second, and a burst in bytes."""

    rate: int
    burst: int


class Shaper(Rtnl):
    """An rtnetlink socket that sets and reads token buckets."""

    def shape(self, ifindex: int, bucket: Bucket) -> None:
        """Limit the frames that the link sends to the bucket, and replace its qdisc. Raises VethError.

        EOPNOTSUPP: this kernel has no sch_tbf. The kernel cuts up super-frames that are larger than the burst.
        """
        limit = int(bucket.rate * _LATENCY_S) + bucket.burst
        options = (
            attr(TCA_TBF_PARMS, _QOPT.pack(TC_LINKLAYER_ETHERNET, bucket.rate, limit)),
            u32(TCA_TBF_BURST, bucket.burst),
        )
        bare = TCMSG.pack(0, ifindex, _HANDLE, TC_H_ROOT, 0)
        message = bare + text(TCA_KIND, "tbf") + nest(TCA_OPTIONS, *options)
        try:
            self._request(message, RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, "shape", "")
        except VethError as error:
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                raise VethError(errno.EOPNOTSUPP, "shape", reason="this kernel has no sch_tbf") from error
            raise

    def shaped(self, ifindex: int) -> int | None:
        """Return the rate of the link's bucket in bytes per second; None if it has no bucket."""
        for data in self._request(TCMSG.pack(0, 0, 0, 0, 0), RTM_GETQDISC, NLM_F_DUMP, "getqdisc", ""):
            (_, index, _, parent, _), attrs = read(TCMSG, data)
            if (index, parent) == (ifindex, TC_H_ROOT) and attrs[TCA_KIND] == b"tbf\0":
                options = dict(attributes(attrs[TCA_OPTIONS]))
                return int(_QOPT.unpack(options[TCA_TBF_PARMS])[1])
        return None
