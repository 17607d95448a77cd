"""Saved pairs: one JSON file in the state directory, replaced atomically."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from vethd.model.api import PairSet
from vethd.model.errors import ConfigError, VethError
from vethd.model.pairfile import convert
from vethd.model.spec import PairSpec, validate_link

FILE = "pairs.json"


class Store:
    """The file of the pairs that the next start makes again."""

    def __init__(self, state_dir: str) -> None:
        """Use state_dir; the first save creates it."""
        self.file = Path(state_dir) / FILE

    def load(self) -> list[PairSpec]:
        """Read the saved pairs; none if the file does not exist. Raises ConfigError if it cannot be read."""
        try:
            data = self.file.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(str(self.file), "", error.strerror or str(error)) from error
        try:
            table = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(str(self.file), "", f"not JSON: {error}") from error
        pairs = convert(table, PairSet, str(self.file), "").pair
        for number, pair in enumerate(pairs):
            for key, link in ((f"pair[{number}]", pair.near_end()), (f"pair[{number}].peer", pair.far_end())):
                try:
                    validate_link(link)
                except VethError as error:
                    raise ConfigError(str(self.file), key, error.reason) from error
        return pairs

    def set_aside(self) -> Path | None:
        """Rename an unreadable file, so that no save overwrites it; return its new path, None if the rename failed."""
        aside = self.file.with_suffix(".json.bad")
        try:
            return self.file.replace(aside)
        except OSError:
            return None

    def save(self, pairs: list[PairSpec]) -> None:
        """Write the pairs to a temporary file, sync it, and rename it into place.

        Raises VethError, and then the old file stays.
        """
        data = msgspec.json.format(msgspec.json.encode(PairSet(pair=pairs)), indent=2) + b"\n"
        temporary = ""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(prefix=f".{FILE}.", dir=self.file.parent)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.file)
        except OSError as error:
            if temporary:
                with suppress(OSError):
                    Path(temporary).unlink()
            reason = f"{self.file}: {error.strerror}"
            raise VethError(error.errno or errno.EIO, "save", reason=reason) from error
