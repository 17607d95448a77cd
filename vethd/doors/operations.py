"""The API's operations, the same for both sockets: (method, path, query, body, fds) -> (status, reply).

The table ROUTES defines the API: dispatch() looks requests up in it, and openapi.py generates the schema from it.
Bodies are msgspec structs that forbid unknown fields. A VethError becomes {code, errno, message}, with the status that
STATUS has for its errno.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence

import msgspec
import structlog

from vethd import __version__
from vethd.doors import cni, insight, rights
from vethd.doors.lookup import find_link, find_pair
from vethd.doors.routing import STATUS, Call, NotFoundError, Reply, Route, find_route
from vethd.model.api import (
    EngineChange,
    EngineInfo,
    ErrorBody,
    Health,
    LinkInfo,
    LinkStats,
    PairChange,
    PairInfo,
    Saved,
)
from vethd.model.errors import ConfigError, VethError
from vethd.model.spec import LinkSpec, PairSpec, validate_pair
from vethd.model.state import Side
from vethd.pairs.entry import Entry

log = structlog.get_logger()


async def dispatch(call: Call, method: str, path: str, body: bytes) -> Reply:
    """Carry out one request. Returns every failure as a reply; raises nothing but CancelledError."""
    try:
        route, variables = find_route(ROUTES, method, path)
        if route.admin:
            rights.need_admin(call.caller, route.path.rpartition("/")[2])
        parsed = msgspec.json.decode(body or b"{}", type=route.body) if route.body is not None else None
        async with call.api.room.turn(call.caller):
            result = await route.handler(call._replace(path=variables, body=parsed))
    except NotFoundError as error:
        return Reply(error.status, ErrorBody(code=error.code, errno=0, message=str(error)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Reply(400, ErrorBody(code="EINVAL", errno=errno.EINVAL, message=f"body: {error}"))
    except ConfigError as error:
        return Reply(400, ErrorBody(code="EINVAL", errno=errno.EINVAL, message=str(error)))
    except VethError as error:
        return Reply(STATUS.get(error.errno, 500), ErrorBody(code=error.code, errno=error.errno, message=str(error)))
    except Exception:
        log.exception("request failed", method=method, path=path)
        message = "internal error in vethd; see its log"
        return Reply(500, ErrorBody(code="EIO", errno=errno.EIO, message=message))
    return result if isinstance(result, Reply) else Reply(route.status, result)


# --- the operations


async def _pairs(call: Call) -> list[PairInfo]:
    """List the pairs."""
    infos = [call.api.manager.info(entry) for entry in call.api.manager.entries.values()]
    return [rights.pair_shown(call.caller, info) for info in infos]


async def _newlink(call: Call) -> PairInfo:
    """Make a pair, all or nothing. Refuses `up` on the peer (ENOTCONN), as veth does."""
    manager = call.api.manager
    if call.caller.admin:
        entry = await manager.newlink(call.body, fds=call.fds)
    else:
        validate_pair(call.body)
        await rights.check_ends(call, "newlink", (call.body.near_end(), call.body.far_end()))
        async with call.api.room.births:
            rights.check_quota(call, call.body)  # no await between this check and the pair's entry in the list
            entry = await manager.newlink(call.body, fds=call.fds, owner=call.caller.owner)
    entry.spec = _without_fds(entry.spec, manager.info(entry).links)
    entry.fds = None
    return manager.info(entry)


async def _pair(call: Call) -> PairInfo:
    """Show a pair."""
    return rights.pair_shown(call.caller, call.api.manager.info(find_pair(call)))


async def _changepair(call: Call) -> PairInfo:
    """Change the given attributes of a pair's ends, all or none."""
    entry = find_pair(call)
    await rights.check_change(call, entry, (call.body, call.body.peer or LinkSpec()))
    await call.api.manager.changelink(entry, call.body, call.fds)
    return call.api.manager.info(entry)


async def _delpair(call: Call) -> None:
    """Delete a pair."""
    await _delete(call, find_pair(call))


async def _links(call: Call) -> list[LinkInfo]:
    """List the living links."""
    return rights.links_shown(call.api, call.caller, call.api.manager.links())


async def _link(call: Call) -> LinkInfo:
    """Show a link."""
    entry, side = await find_link(call)
    return rights.links_shown(call.api, call.caller, [call.api.manager.info(entry).links[side]])[0]


async def _changelink(call: Call) -> LinkInfo:
    """Change the given attributes of a link, all or none."""
    entry, side = await find_link(call)
    await rights.check_change(call, entry, (call.body,))
    change = PairChange(peer=call.body) if side is Side.FAR else PairChange(**call.body.attributes())
    await call.api.manager.changelink(entry, change, call.fds)
    return call.api.manager.info(entry).links[side]


async def _dellink(call: Call) -> None:
    """Delete a link and its peer."""
    entry, _ = await find_link(call)
    await _delete(call, entry)


async def _stats(call: Call) -> list[LinkStats]:
    """Show the counters of every link that the caller may read."""
    entries = [entry for entry in call.api.manager.entries.values() if rights.owned(call.caller, entry)]
    return await call.api.manager.stats([(entry, side) for entry in entries for side in Side])


async def _linkstats(call: Call) -> LinkStats:
    """Show the counters of a link."""
    entry, side = await find_link(call)
    rights.need_owned(call.caller, entry, "stats", call.path["name"])
    for stats in await call.api.manager.stats([(entry, side)]):
        return stats
    raise VethError(errno.ENODEV, "stats", call.path["name"])


async def _save(call: Call) -> Saved:
    """Save the run-time pairs; the next start makes them again."""
    return await call.api.declared.save()


async def _reload(call: Call) -> dict[str, int]:
    """Read the config again, and change only the pairs and settings that differ."""
    if call.api.reload is None:
        raise VethError(errno.EOPNOTSUPP, "reload", reason="this daemon was started without a config")
    return await call.api.reload()


async def _health(call: Call) -> Health:
    """Show that the daemon is alive, and its identity."""
    manager = call.api.manager
    return Health(
        status="ok",
        version=__version__,
        pid=os.getpid(),
        engine=manager.tuning.engine.name,
        uptime_s=round(time.monotonic() - call.api.started, 3),
        netns_inode=manager.workers.nursery.own_inode,
        pairs=sum(1 for entry in manager.entries.values() if entry.live),
        waiting=sum(1 for entry in manager.entries.values() if not entry.live),
        owner=call.caller.owner,
        reconciled=manager.reconciled,
    )


async def _engine(call: Call) -> EngineInfo:
    """Show the engine, and the settings for all pairs."""
    return call.api.manager.tuning.info()


async def _changeengine(call: Call) -> EngineInfo:
    """Change the settings for all pairs, until a reload or restart applies the config's."""
    call.api.manager.change_engine(call.body)
    return call.api.manager.tuning.info()


ROUTES = (
    Route("GET", "/v1/pairs", _pairs, None, list[PairInfo]),
    Route("POST", "/v1/pairs", _newlink, PairSpec, PairInfo, 201),
    Route("GET", "/v1/pairs/{id}", _pair, None, PairInfo),
    Route("PATCH", "/v1/pairs/{id}", _changepair, PairChange, PairInfo),
    Route("DELETE", "/v1/pairs/{id}", _delpair, None, None, 204),
    Route("GET", "/v1/links", _links, None, list[LinkInfo]),
    Route("GET", "/v1/links/{name}", _link, None, LinkInfo),
    Route("PATCH", "/v1/links/{name}", _changelink, LinkSpec, LinkInfo),
    Route("DELETE", "/v1/links/{name}", _dellink, None, None, 204),
    Route("GET", "/v1/stats", _stats, None, list[LinkStats]),
    Route("GET", "/v1/links/{name}/stats", _linkstats, None, LinkStats),
    Route("GET", "/v1/engine", _engine, None, EngineInfo),
    Route("PATCH", "/v1/engine", _changeengine, EngineChange, EngineInfo, admin=True),
    Route("POST", "/v1/save", _save, None, Saved, admin=True),
    Route("POST", "/v1/reload", _reload, None, dict[str, int], admin=True),
    Route("GET", "/v1/health", _health, None, Health),
    *insight.ROUTES,
    *cni.ROUTES,
)


# --- shared helpers


async def _delete(call: Call, entry: Entry) -> None:
    rights.need_owned(call.caller, entry, "dellink", call.path.get("name", ""))
    await call.api.manager.dellink(entry)
    await call.api.declared.forget(entry)


def _without_fds(spec: PairSpec, links: Sequence[LinkInfo]) -> PairSpec:
    """Replace namespaces given as fds by their names: the fds are closed after the call."""

    def named(link: LinkSpec, info: LinkInfo) -> str | None:
        return info.netns if (link.netns or "").startswith("fd:") else link.netns

    if not links:
        return spec
    peer = spec.peer and msgspec.structs.replace(spec.peer, netns=named(spec.peer, links[Side.FAR]))
    return msgspec.structs.replace(spec, netns=named(spec, links[Side.NEAR]), peer=peer)
