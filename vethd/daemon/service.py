"""Compose the daemon: one engine, one manager, two doors, signal handlers and the systemd interface."""

from __future__ import annotations

import asyncio
import errno
import gc
import grp
import resource
import signal
from collections.abc import Callable
from contextlib import suppress

import structlog

from vethd import __version__
from vethd.daemon.config import ADMIN_GROUP, Config
from vethd.daemon.doors import Doors
from vethd.daemon.early import Early
from vethd.daemon.lasting import Lasting
from vethd.daemon.notify import Notify
from vethd.daemon.replace import Giver, take_over
from vethd.daemon.sockets import listen
from vethd.datapath.engines import Asked, Picked, keep_or_pick
from vethd.doors.callers import Policy
from vethd.doors.routing import Api
from vethd.kernel.probe import capabilities
from vethd.kernel.tundev import obstacle
from vethd.memory.store import Store
from vethd.model.api import FORMER_ENGINES, EngineChange, EngineInfo
from vethd.model.errors import ConfigError, VethError
from vethd.pairs.declared import Declared
from vethd.pairs.manager import Manager

log = structlog.get_logger()


def need_machine() -> None:
    """Check for /dev/net/tun and the capabilities. Raises VethError ENODEV, EPERM or EACCES, with advice."""
    if found := obstacle():
        raise found.error("start")
    missing = [check for check in capabilities() if not check.ok]
    if missing:
        names = " and ".join(check.name for check in missing)
        raise VethError(errno.EPERM, "start", reason=f"{names} missing {missing[0].advice}")


def raise_fd_limit() -> None:
    """Raise the soft limit of fds to the hard limit: a pair needs two or more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def leave_imports_alone() -> None:
    """Exclude the imported objects, some 60,000, from garbage collection.

    A full collection starts when the new long-lived objects exceed a quarter of all long-lived objects. With the
    imports included, the daemon would first accumulate that much garbage and then pause for 35 ms. Without them, the
    quarter is of the objects of pairs and requests.
    """
    gc.freeze()
    gc.collect()  # collects nothing, but resets the count of long-lived objects


def _policy(config: Config) -> Policy:
    """Look up the admin group. Raises VethError EINVAL if the config names a group that does not exist."""
    gid = None
    try:
        gid = grp.getgrnam(config.admin_group).gr_gid
    except KeyError:
        if config.admin_group not in ("", ADMIN_GROUP):
            reason = f"admin_group: no such group: {config.admin_group!r}"
            raise VethError(errno.EINVAL, "start", reason=reason) from None
    return Policy(gid, config.quota)


def tell_engine(asked: Asked, engine: EngineInfo) -> None:
    """Log a former name in use, and why "auto" did not take its preferred engine, if so."""
    if asked.name in FORMER_ENGINES:
        log.warning("engine has a new name", former=asked.name, name=FORMER_ENGINES[asked.name])
    if engine.fallback:
        log.info("engine native unavailable, using asyncio", reason=engine.fallback)


async def serve(config: Config, reread: Callable[[], Config] | None, early: Early, *, replace: bool) -> None:
    """Run the daemon until SIGTERM or SIGINT; reread reads its config again, None if it has no config.

    early holds the pairs that already forward; replace takes over from a running daemon. Raises VethError if the daemon
    cannot start.
    """
    need_machine()
    raise_fd_limit()
    leave_imports_alone()
    policy = _policy(config)
    notify = Notify()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    _on_signals(loop, stop)
    early, confirm = await take_over(config, notify, early) if replace else (early, lambda: None)
    sockets = listen(config.socket, config.mode, config.socket_group, early.passed)
    try:
        picked = _engine(config, early, loop)
        told = {"forwarding_after_ms": early.after_ms} if early.held else {}  # read now: adoption empties held
        lasting = Lasting(config, notify)
        manager = Manager(picked, await lasting.memory(early), gro=config.gro, ring=config.ring)
        engine = manager.tuning.info()
        tell_engine(config.asked, engine)
        adopted = await manager.adopt()
        declared = Declared(manager, Store(config.state_dir))
        reloader = _Reloader(config, reread, manager, declared, notify)
        api = Api(manager, declared, reloader.reload if reread else None, policy)
        giver = Giver(manager, lasting, sockets, reloader.lock, stop)
        giver.doors = doors = Doors(api, sockets, giver.asked)
        await doors.open()
        confirm()
        watchdog = loop.create_task(_watchdog(notify))
        try:
            log.info("started", version=__version__, engine=engine.name, socket=config.socket, adopted=adopted, **told)
            starting = loop.create_task(_start(declared, config, notify, manager, reloader))
            manager.spawn(lasting.start(manager, starting))
            starting.add_done_callback(lambda task: stop.set() if not task.cancelled() and task.exception() else None)
            loop.add_signal_handler(signal.SIGHUP, reloader.on_signal)
            await stop.wait()
            if starting.done():
                starting.result()  # a failure there is a bug: it ends the daemon with its traceback
        finally:
            await giver.settled()
            notify.stopping()
            log.info("stopping")
            for task in (starting, watchdog, *reloader.tasks):
                task.cancel()
            await asyncio.gather(starting, watchdog, *reloader.tasks, return_exceptions=True)
            await doors.close()
            declared.close()
            await lasting.close()
            await manager.close()
    finally:
        sockets.close()


def _on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # ignored until the reloader exists


def _engine(config: Config, early: Early, loop: asyncio.AbstractEventLoop) -> Picked:
    """Return the engine that already forwards, if the config asks for it; otherwise another."""
    picked = keep_or_pick(early.engine, config.asked, loop)
    if picked.engine is not early.engine:
        early.let_go()
    return picked


async def _start(declared: Declared, config: Config, notify: Notify, manager: Manager, reloader: _Reloader) -> None:
    async with reloader.lock:
        # a client may already have requested a reload, which read a newer config
        await declared.start((reloader.newest or config).pair)
        await reloader.look_again()
    notify.ready(_status(manager))


async def _watchdog(notify: Notify) -> None:
    while notify.watchdog_s:
        notify.watchdog()
        await asyncio.sleep(notify.watchdog_s / 3)


def _status(manager: Manager) -> str:
    waiting = sum(1 for entry in manager.entries.values() if entry.live is None)
    done = f"; at the start {manager.reconciled}" if str(manager.reconciled or "") else ""
    return f"{len(manager.entries) - waiting} pairs, {waiting} waiting{done}"


class _Reloader:
    """Reads the config again on SIGHUP or by the API, one reload at a time."""

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config] | None,
        manager: Manager,
        declared: Declared,
        notify: Notify,
    ) -> None:
        self._started = config
        self._reread = reread
        self._manager = manager
        self._declared = declared
        self._notify = notify
        self.lock = asyncio.Lock()
        self.newest: Config | None = None  # the config of the last reload
        self.tasks: set[asyncio.Task[None]] = set()

    def on_signal(self) -> None:
        """Reload, and log the result."""
        task = asyncio.get_running_loop().create_task(self._logged())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def reload(self) -> dict[str, int]:
        """Reload. Raises ConfigError, and then nothing has changed."""
        if self._reread is None:
            return {}
        async with self.lock:
            self._notify.reloading()
            status = "the last reload was refused: see the log"
            try:
                result = await self._take(await asyncio.to_thread(self._reread))
                status = ", ".join(f"{count} {what}" for what, count in result.items())
            finally:
                self._notify.ready(status)
        return result

    async def look_again(self) -> None:
        """Read the config again at the end of the start, and apply changes made meanwhile; the caller holds the lock.

        systemd considers a reload that is requested during the start as done with the start, and sends no SIGHUP.
        """
        if self._reread is None or not self._notify.fd_store:
            return
        try:
            config = await asyncio.to_thread(self._reread)
            if config != (self.newest or self._started):
                log.info("reloaded", **await self._take(config))
        except ConfigError as error:
            log.warning("reload refused, nothing changed", reason=str(error))

    async def _take(self, config: Config) -> dict[str, int]:
        result = await self._declared.reconcile(config.pair)
        self.newest = config
        self._tune(config)  # last, so that a refusal above changes no setting
        return result

    def _tune(self, config: Config) -> None:
        """Apply the settings that need no restart, and log changed ones that do."""
        own = {"spin_us": config.spin_us, "moderation_us": config.moderation_us}
        threads = own if self._manager.tuning.info().workers else {}
        self._manager.change_engine(EngineChange(**threads, gro=config.gro, ring=config.ring))
        for key in ("engine", "workers", "persist"):
            now, then = getattr(config, key), getattr(self._started, key)
            if FORMER_ENGINES.get(now, now) != FORMER_ENGINES.get(then, then):
                log.warning("setting needs a restart", key=key, config=now, running=then)

    async def _logged(self) -> None:
        if self._reread is None:
            log.warning("SIGHUP ignored: started without a config")
            return
        try:
            log.info("reloaded", **await self.reload())
        except ConfigError as error:
            log.warning("reload refused, nothing changed", reason=str(error))
