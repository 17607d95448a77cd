"""The CNI plugin's requests (docs/cni.md): make, address, check, limit, list and delete attachments.

The plugin runs IPAM and makes firewall rules; the daemon makes the pair, the bridge, sysctls, addresses and routes. For
administrators only, because an attachment's other end is in the host's namespace.
"""

from __future__ import annotations

from vethd.doors.routing import Call, Route
from vethd.model.api import AttachmentKey
from vethd.model.attachment import Attached, Attachment, AttachmentInfo, BandwidthSpec
from vethd.pairs import attachments, bandwidth


async def _attachments(call: Call) -> list[AttachmentInfo]:
    """List the attachments."""
    return attachments.attachments(call.api.manager)


async def _attach(call: Call) -> Attached:
    """Attach a container to a network. If that fails, nothing remains except perhaps the bridge."""
    return await attachments.attach(call.api.manager, call.body, call.fds)


async def _address(call: Call) -> Attached:
    """Bring an existing attachment up and give it its addresses and routes."""
    return await attachments.address(call.api.manager, call.body, call.fds)


async def _check(call: Call) -> Attached:
    """Check that an attachment is as the body describes it."""
    return await attachments.check(call.api.manager, call.body, call.fds)


async def _limit(call: Call) -> None:
    """Limit the rates of an attachment."""
    await bandwidth.limit(call.api.manager, call.body)


async def _check_limit(call: Call) -> None:
    """Check the rate limits of an attachment."""
    await bandwidth.limit(call.api.manager, call.body, check=True)


async def _attachment(call: Call) -> AttachmentInfo:
    """Show an attachment."""
    key = _key(call)
    return attachments.attachment(attachments.the_one(call.api.manager, key), key)


async def _detach(call: Call) -> None:
    """Delete an attachment; a missing attachment is no error."""
    for entry in await attachments.detach(call.api.manager, _key(call)):
        await call.api.declared.forget(entry)


def _key(call: Call) -> AttachmentKey:
    return AttachmentKey(call.path["network"], call.path["container"], call.path["ifname"])


_ONE = "/v1/attachments/{network}/{container}/{ifname}"

ROUTES = (
    Route("GET", "/v1/attachments", _attachments, None, list[AttachmentInfo], admin=True),
    Route("POST", "/v1/attachments", _attach, Attachment, Attached, 201, admin=True),
    Route("PATCH", "/v1/attachments", _address, Attachment, Attached, admin=True),
    Route("POST", "/v1/attachments/check", _check, Attachment, Attached, admin=True),
    Route("POST", "/v1/attachments/bandwidth", _limit, BandwidthSpec, None, 204, admin=True),
    Route("POST", "/v1/attachments/bandwidth/check", _check_limit, BandwidthSpec, None, 204, admin=True),
    Route("GET", _ONE, _attachment, None, AttachmentInfo, admin=True),
    Route("DELETE", _ONE, _detach, None, None, 204, admin=True),
)
