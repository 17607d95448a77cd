"""The config file, a file of `vethctl apply`, and the saved pairs: read whole, or refused in one sentence."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vethd.daemon.config import read_config
from vethd.memory.store import FILE, Store
from vethd.model.errors import ConfigError
from vethd.model.pairfile import read_pairs
from vethd.model.spec import validate_link

_DIRECTORY = tempfile.TemporaryDirectory(prefix="vethd-fuzz.")
_FILE = Path(_DIRECTORY.name, FILE)


def one_input(data: bytes) -> None:
    """Read data as each of the three."""
    _FILE.write_bytes(data)
    try:
        config = read_config(os.fspath(_FILE))
    except ConfigError as error:
        _check(error)
    else:
        assert 0 <= config.mode <= 0o777
        assert config.level > 0
        for pair in config.pair:
            assert pair.name is not None
            validate_link(pair.near_end())
            validate_link(pair.far_end())
    try:
        read_pairs(data.decode(errors="replace"), "stdin")
    except ConfigError as error:
        _check(error)
    try:
        saved = Store(_DIRECTORY.name).load()
    except ConfigError as error:
        _check(error)
    else:
        Store(_DIRECTORY.name).save(saved)
        assert Store(_DIRECTORY.name).load() == saved


def _check(error: ConfigError) -> None:
    assert error.reason
    assert str(error)
