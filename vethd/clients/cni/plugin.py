"""The CNI plugin: one call. The operation is in the environment, the configuration on stdin; the result goes to stdout.

Theory of operation. A container waits for every millisecond, so the plugin imports only modules that are built into the
interpreter (posix, _socket, _json, zlib), and all of its own come as bytecode in one file (install.py). The plugin
stores nothing between calls: the daemon has the pairs, IPAM the addresses, the kernel the rules.
"""

from __future__ import annotations

import posix

from vethd.clients.cni import text
from vethd.clients.cni.conf import VERSIONS, Conf, Env, read, read_stdin
from vethd.clients.cni.errors import IO_FAILURE, REFUSED, CniError, log


def main() -> int:
    """Carry out the call that the environment describes; return the exit status."""
    version = VERSIONS[-1]
    try:
        env = Env()
        data = read_stdin()
        if env.command == "VERSION":
            said = (read(data) if data.strip() else {}).get("cniVersion") or version
            _say({"cniVersion": said, "supportedVersions": VERSIONS})
            return 0
        asked = read(data).get("cniVersion")
        version = asked if isinstance(asked, str) and asked else version
        conf = Conf(data, env.command)
        if conf.socket:
            posix.environ[b"VETHD_SOCKET"] = conf.socket.encode("utf-8", "surrogateescape")
        _carry_out(conf, env)
    except CniError as error:
        _say(error.body(version))
        return 1
    except OSError as error:
        _say(CniError(IO_FAILURE, error.strerror or str(error)).body(version))
        return 1
    except Exception as error:  # noqa: BLE001 - the runtime expects JSON for every failure
        log(f"{type(error).__name__}: {error}")
        _say(CniError(REFUSED, "internal error of vethd-cni; its stderr has the exception").body(version))
        return 1
    return 0


def _carry_out(conf: Conf, env: Env) -> None:
    from vethd.clients.cni import bandwidth, operations  # noqa: PLC0415 - VERSION needs neither

    if env.command == "STATUS":
        operations.status(conf)
    elif conf.mode == "bandwidth":
        if env.command == "ADD":
            _say(bandwidth.add(conf, env))
        elif env.command == "CHECK":
            bandwidth.check(conf, env)
    elif env.command == "ADD":
        _say(operations.add(conf, env))
    elif env.command == "DEL":
        operations.delete(conf, env)
    elif env.command == "CHECK":
        operations.check(conf, env)
    else:
        operations.collect(conf)


def _say(body: dict[str, object]) -> None:
    data = text.encode(body).encode() + b"\n"
    while data:
        data = data[posix.write(1, data) :]
