"""Run the IPAM plugin that the configuration names. It gets the whole configuration, as the specification requires."""

from __future__ import annotations

import posix

from vethd.clients.cni import text
from vethd.clients.cni.conf import Conf, get
from vethd.clients.cni.errors import BAD_CONFIG, BAD_ENVIRONMENT, IPAM_FAILED, CniError
from vethd.clients.cni.run import find, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def call(conf: Conf, command: str) -> dict[str, Any]:
    """Run the IPAM plugin and return its result, {} if it has none. Raises CniError.

    If the plugin prints an error of its own, the CniError has its code, message and details.
    """
    if "/" in conf.ipam:
        raise CniError(BAD_CONFIG, f"ipam: type {conf.ipam!r} is not a plugin's name")
    path = get("CNI_PATH")
    program = find(conf.ipam, path)
    if not program:
        raise CniError(BAD_ENVIRONMENT, f'CNI_PATH: no plugin "{conf.ipam}" in [{path}]')
    try:
        ran = run([program], conf.data, {**posix.environ, b"CNI_COMMAND": command.encode()}, err=False)
    except OSError as error:
        raise CniError(IPAM_FAILED, f"{program}: {error.strerror}") from None
    said = _read(ran.out)
    if ran.status:
        if isinstance(said.get("code"), int) and said.get("msg"):
            raise CniError(said["code"], str(said["msg"]), str(said.get("details") or ""))
        raise CniError(IPAM_FAILED, f"{conf.ipam} failed {command}: {ran.words()}")
    if command == "ADD" and not said:
        raise CniError(IPAM_FAILED, f"{conf.ipam} returned no result: {ran.words()}")
    return said


def _read(out: bytes) -> dict[str, Any]:
    try:
        said = text.decode(out)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
