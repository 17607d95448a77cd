"""Tells which command lines of ip(8) are vethd's; every other one becomes the real ip at once.

Theory of operation. This stands at the head of a PATH under the name `ip`, and most of what passes is not about a veth.
So this module, which every call runs, imports posix and sys alone, and leaves the rest of the room unloaded until it is
known to be needed:

    link add, link replace    with the word "veth" in it
    link delete, link show    while there is a daemon's socket
    -batch                    whose lines are looked at one by one

What iproute2 calls a mistake is never worded here: the real ip is given the line, without the right to change anything,
and says it in its own words (real.py). What the kernel refuses comes from the daemon as an errno.
"""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "Made by `vethd-ip install`"
SOCKET = b"/run/vethd/vethd.sock"
USAGE = 255
FAILED = 1
FOUND_NOT = 127

# in the order in which ip compares; "=": not to be abbreviated, "+": a word follows
_TABLE = """
loops+ family+ 4= 6= 0= M= B= human human-readable iec stats statistics details resolve oneline timestamp tshort Version
force batch+ brief json pretty rcvbuf+ color help netns+ Numeric all echo=
"""
_OPTIONS = tuple(_TABLE.split())
_FAMILIES = ("inet", "inet6", "link", "mpls", "bridge")


class Line:
    """A command line: options as they were said, but for -netns and -batch; then the words, object first.

    rows are the options' whole words.
    """

    __slots__ = ("batch", "netns", "options", "rows", "words")

    def __init__(self) -> None:
        self.options: list[str] = []
        self.rows: list[str] = []
        self.netns: str | None = None
        self.batch: str | None = None
        self.words: list[str] = []

    def again(self, *words: str) -> list[str]:
        """Give the arguments that say words with this line's options."""
        return [*self.options, *(["-netns", self.netns] if self.netns is not None else []), *words]


def abbreviates(word: str, whole: str) -> bool:
    """Tell whether word is whole, or its beginning, as iproute2 lets words be cut."""
    return bool(word) and whole.startswith(word)


def split(args: list[str]) -> Line | None:
    """Split arguments into options and words; None where only the real ip knows what to say."""
    line, at = Line(), 0
    while at < len(args) and args[at].startswith("-"):
        said = args[at]
        at += 1
        if said == "--":
            break
        option = _option(said[2:] if said.startswith("--") else said[1:])
        if option in ("", "Version", "help"):
            return None
        if not option.endswith("+"):
            line.options.append(said)
            line.rows.append(option)
            continue
        if at == len(args) or (option == "family+" and args[at] not in _FAMILIES):
            return None
        if option == "rcvbuf+" and not args[at].isdecimal():
            return None
        if option == "netns+":
            line.netns = args[at]
        elif option == "batch+":
            line.batch = args[at]
        else:
            line.options += (said, args[at])
        at += 1
    line.words = args[at:]
    return line


def _option(word: str) -> str:
    """Find an option's row by a word without its dashes; "" where there is none."""
    for row in _OPTIONS:
        if word == row[:-1] if row[-1] == "=" else row.rstrip("+").startswith(word):
            return row
        if row == "color" and word.partition("=")[0] and row.startswith(word.partition("=")[0]):
            return row
    return ""


def verb(words: list[str]) -> str:
    """Tell what is asked for: "add", "replace", "delete" or "show" of links, or "" where it cannot be ours."""
    if not words or not abbreviates(words[0], "link"):
        return ""
    if len(words) == 1:
        return "show"
    for name in ("add", "set", "change", "replace", "delete", "show", "lst", "list"):
        if abbreviates(words[1], name):
            if name in ("add", "replace"):
                return name if "veth" in words else ""
            return {"delete": name, "show": name, "lst": "show", "list": "show"}.get(name, "")
    return ""


def socket_path() -> bytes:
    """Give the path of the daemon's fd-passing socket."""
    return (posix.environ.get(b"VETHD_SOCKET") or SOCKET) + b".fd"


def there(path: bytes | str) -> bool:
    """Tell whether the file is there."""
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def say(text: str) -> None:
    """Write to stderr."""
    posix.write(2, text.encode("utf-8", "surrogateescape"))


def become(real: str, args: list[str]) -> int:
    """Run the real ip in this process's place; returns, with a status, only where it cannot."""
    try:
        if posix.stat(real)[1:3] == posix.stat(sys.argv[0])[1:3]:
            say(f"vethd-ip: {real} is vethd-ip itself: `vethd-ip install` again\n")
            return FOUND_NOT
    except OSError:
        pass  # the next line says it
    try:
        restore_signals()
        posix.execve(real, [real, *args], environment())
    except OSError as error:
        say(f"vethd-ip: the real ip, {real}: {error.strerror}: `vethd-ip install` again\n")
    return FOUND_NOT


def restore_signals() -> None:
    """Give the signals that Python ignores or catches their defaults again: what is ignored stays so across exec."""
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - signal itself costs 3 ms

    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def environment() -> dict[bytes, bytes]:
    """Give the environment as it came: in the C locale Python adds an LC_CTYPE, which is not for programs behind it."""
    if posix.environ.get(b"LC_CTYPE") == b"C.UTF-8":
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib costs 5 ms
            if b"\0LC_CTYPE=" not in b"\0" + file.read():
                return {key: value for key, value in posix.environ.items() if key != b"LC_CTYPE"}
    return posix.environ


def main(real: str, unpack: "Callable[[], None]") -> int:
    """Run the command line of this process and give its status; unpack makes the room's other modules importable."""
    line = split(sys.argv[1:])
    what = verb(line.words) if line is not None else ""
    if line is None or not (line.batch is not None or what):
        return become(real, sys.argv[1:])
    if line.batch is None and what in ("delete", "show") and not there(socket_path()):
        return become(real, sys.argv[1:])
    restore_signals()
    unpack()
    from vethd.clients.ip.roads import run  # noqa: PLC0415 - most calls need none of it

    try:
        return run(real, line)
    except OSError as error:  # stdout is closed or full, no process can be made
        say(f"vethd-ip: {error.strerror}\n")
        return FAILED
