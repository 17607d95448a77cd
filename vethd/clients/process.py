"""Write to stderr, and exec the real ip with the original signal dispositions and environment.

Every call of vethd-ip runs this module, so it imports only posix and sys.
"""

import posix
import sys

NOT_FOUND = 127


def say(text: str) -> None:
    """Write to stderr."""
    posix.write(2, text.encode("utf-8", "surrogateescape"))


def become(real: str, args: list[str]) -> int:
    """Replace this process by the real ip; return a status only if that fails."""
    try:
        if posix.stat(real)[1:3] == posix.stat(sys.argv[0])[1:3]:
            say(f"vethd-ip: {real} is vethd-ip itself, not the real ip: run `vethd-ip install` again\n")
            return NOT_FOUND
    except OSError:
        pass  # execve() below reports the error
    try:
        restore_signals()
        posix.execve(real, [real, *args], environment())
    except OSError as error:
        say(f"vethd-ip: cannot run the real ip, {real}: {error.strerror}: run `vethd-ip install` again\n")
    return NOT_FOUND


def restore_signals() -> None:
    """Reset the signals that Python ignores or catches to their defaults, as exec keeps ignored signals ignored."""
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - signal itself costs 3 ms

    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def environment() -> dict[bytes, bytes]:
    """Return the original environment: in the C locale Python adds an LC_CTYPE, which other programs must not get."""
    if posix.environ.get(b"LC_CTYPE") == b"C.UTF-8":
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib costs 5 ms
            if b"\0LC_CTYPE=" not in b"\0" + file.read():
                return {key: value for key, value in posix.environ.items() if key != b"LC_CTYPE"}
    return posix.environ
