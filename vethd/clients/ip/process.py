"""How a call writes to stderr, and becomes the real ip with the signals and environment that it came with.

Every call of the drop-in runs this module, so it imports posix and sys alone.
"""

import posix
import sys

NOT_FOUND = 127


def say(text: str) -> None:
    """Write to stderr."""
    posix.write(2, text.encode("utf-8", "surrogateescape"))


def become(real: str, args: list[str]) -> int:
    """Run the real ip in this process's place; returns, with a status, only where it cannot."""
    try:
        if posix.stat(real)[1:3] == posix.stat(sys.argv[0])[1:3]:
            say(f"vethd-ip: {real} is vethd-ip itself: `vethd-ip install` again\n")
            return NOT_FOUND
    except OSError:
        pass  # the next line says it
    try:
        restore_signals()
        posix.execve(real, [real, *args], environment())
    except OSError as error:
        say(f"vethd-ip: the real ip, {real}: {error.strerror}: `vethd-ip install` again\n")
    return NOT_FOUND


def restore_signals() -> None:
    """Give the signals that Python ignores or catches their defaults again: what is ignored stays so across exec."""
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - signal itself costs 3 ms

    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def environment() -> dict[bytes, bytes]:
    """Return the environment as it came: in the C locale Python adds an LC_CTYPE, which other programs must not see."""
    if posix.environ.get(b"LC_CTYPE") == b"C.UTF-8":
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib costs 5 ms
            if b"\0LC_CTYPE=" not in b"\0" + file.read():
                return {key: value for key, value in posix.environ.items() if key != b"LC_CTYPE"}
    return posix.environ
