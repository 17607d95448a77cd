"""The config file: TOML. Any error refuses the whole file, with file, key and reason."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from vethd.datapath.engines import ENGINES, Asked
from vethd.doors.callers import QUOTA
from vethd.model.api import FORMER_ENGINES, MODERATION_US, SPIN_US, ModerationUs, Ring, SpinUs, Workers
from vethd.model.errors import ConfigError
from vethd.model.pairfile import check_pairs, convert, read_toml
from vethd.model.spec import RING, PairSpec

SOCKET = "/run/vethd/vethd.sock"
STATE_DIR = "/var/lib/vethd"
ADMIN_GROUP = "vethd"

Quota = Annotated[int, msgspec.Meta(ge=0)]


class Config(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The keys of a config file; configs/vethd.toml explains each of them."""

    socket: str = SOCKET
    socket_group: str | None = None
    socket_mode: str = "0666"
    admin_group: str = ADMIN_GROUP
    quota: Quota = QUOTA
    engine: str = "auto"
    workers: Workers = 0
    spin_us: SpinUs = SPIN_US
    moderation_us: ModerationUs = MODERATION_US
    gro: bool = True
    ring: Ring = RING
    state_dir: str = STATE_DIR
    persist: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    pair: list[PairSpec] = msgspec.field(default_factory=list)

    @property
    def mode(self) -> int:
        """The control socket's permission bits."""
        return int(self.socket_mode, 8)

    @property
    def asked(self) -> Asked:
        """The engine and its settings."""
        return Asked(self.engine, self.workers, self.spin_us, self.moderation_us)

    @property
    def level(self) -> int:
        """The log level, as logging numbers it."""
        return logging.getLevelNamesMapping()[self.log_level.upper()]


def read_config(path: str) -> Config:
    """Read and check a config file. Raises ConfigError with file, key and reason."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(path, "", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, "", f"not UTF-8: {error.reason} at byte {error.start}") from error
    config = convert(read_toml(text, path), Config, path, "")
    if config.engine not in (*ENGINES, *FORMER_ENGINES):
        raise ConfigError(path, "engine", f"{config.engine!r} is not one of {', '.join(ENGINES)}")
    try:
        mode_ok = 0 <= config.mode <= 0o777
    except ValueError:
        mode_ok = False
    if not mode_ok:
        raise ConfigError(path, "socket_mode", f'{config.socket_mode!r} is not an octal mode such as "0666"')
    check_pairs(config.pair, path)
    for number, pair in enumerate(config.pair):
        if pair.name is None:
            raise ConfigError(path, f"pair[{number}].name", "a declared pair needs a name: a reload finds it by name")
    return config
