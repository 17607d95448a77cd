"""The rate limits of an attachment: a token bucket on each of its two ends limits the frames that this end sends."""

from __future__ import annotations

import errno
import os

from vethd.kernel import netns
from vethd.kernel.shaping import Bucket, Shaper
from vethd.kernel.tun import Tap
from vethd.model.attachment import BandwidthSpec, validate_bandwidth
from vethd.model.errors import VethError
from vethd.model.state import Side
from vethd.pairs.attachments import the_one
from vethd.pairs.manager import Manager

_Buckets = list[tuple[Tap, Bucket]]


async def limit(manager: Manager, asked: BandwidthSpec, *, check: bool = False) -> None:
    """Limit an attachment's rates, or only check the limits. Raises VethError, ESTALE if a limit differs."""
    validate_bandwidth(asked)
    entry = the_one(manager, asked.key)
    if entry.live is None:
        raise VethError(errno.ENODEV, "shape", asked.ifname, entry.reason or "the pair is gone")
    said = (
        (Side.NEAR, asked.ingress_rate, asked.ingress_burst),  # the host's end sends the container's ingress
        (Side.FAR, asked.egress_rate, asked.egress_burst),
    )
    buckets = [(entry.live.links[side].tap, Bucket(rate // 8, burst // 8)) for side, rate, burst in said if rate]
    await manager.workers.chore(_check if check else _shape, buckets)


def _shape(buckets: _Buckets) -> None:
    for tap, bucket in buckets:
        _at(tap, bucket, check=False)


def _check(buckets: _Buckets) -> None:
    for tap, bucket in buckets:
        _at(tap, bucket, check=True)


def _at(tap: Tap, bucket: Bucket, *, check: bool) -> None:
    with tap.lock:
        name, fd = tap.ifname, tap.netns_fd()
        try:
            with netns.inside(fd), Shaper() as here:
                ifindex = here.ifindex(name, "shape")
                if not check:
                    here.shape(ifindex, bucket)
                elif (rate := here.shaped(ifindex)) != bucket.rate:
                    now = f"{8 * rate} bit/s" if rate is not None else "no limit"
                    raise VethError(errno.ESTALE, "check", name, f"it has {now}, not {8 * bucket.rate} bit/s")
        finally:
            os.close(fd)
