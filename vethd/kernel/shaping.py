"""Limits the rate at which a link sends, with a token bucket (tc-tbf(8)); for worker threads."""

from __future__ import annotations

import errno
from typing import NamedTuple

from pyroute2.netlink.rtnl.tcmsg import sched_tbf, tcmsg

from vethd.kernel.rtnl import Rtnl
from vethd.kernel.uapi import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, RTM_GETQDISC, RTM_NEWQDISC, TC_H_ROOT
from vethd.model.errors import VethError

_HANDLE = 1 << 16  # "1:"
_LATENCY = "25ms"


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
        options = sched_tbf.get_parameters(
            {"rate": f"{8 * bucket.rate}bit", "burst": bucket.burst, "latency": _LATENCY}
        )
        message = tcmsg()
        message.update(index=ifindex, parent=TC_H_ROOT, handle=_HANDLE)
        message["attrs"] = [("TCA_KIND", "tbf"), ("TCA_OPTIONS", options)]
        try:
            self._request(message, RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, "shape", "")
        except VethError as error:
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                raise VethError(errno.EOPNOTSUPP, "shape", reason="this kernel has no sch_tbf") from error
            raise

    def shaped(self, ifindex: int) -> int | None:
        """Return the rate of the link's bucket in bytes per second; None if it has no bucket."""
        for data in self._request(tcmsg(), RTM_GETQDISC, NLM_F_DUMP, "getqdisc", ""):
            found = tcmsg(data)
            found.decode()
            if (found["index"], found["parent"]) == (ifindex, TC_H_ROOT) and found.get_attr("TCA_KIND") == "tbf":
                return int(found.get_nested("TCA_OPTIONS", "TCA_TBF_PARMS")["rate"])
        return None
