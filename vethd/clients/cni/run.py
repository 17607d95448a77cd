"""Run programs to completion, with bytes on stdin and with their output captured."""

from __future__ import annotations

import posix

USUAL = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin")
_CHUNK = 1 << 16
_IGNORED = (13, 25)  # SIGPIPE, SIGXFSZ: Python ignores them, and an ignored signal stays ignored across exec


class Ran:
    """A finished program: its status and its output."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status = status
        self.out = out
        self.err = err

    def words(self) -> str:
        """Return its error text: the last 500 characters of stderr, otherwise of stdout, otherwise the status."""
        said = (self.err.strip() or self.out.strip()).decode("utf-8", "replace")
        return said[-500:] or f"status {self.status}"


def find(program: str, path: str, more: tuple[str, ...] = ()) -> str:
    """Find a program in the directories of path (separated by colons), then in more; "" if there is none."""
    for directory in (*path.split(":"), *more):
        candidate = f"{directory}/{program}"
        if directory and posix.access(candidate, posix.X_OK) and not _is_directory(candidate):
            return candidate
    return ""


class Running:
    """A started program. Call wait() once.

    Its stdin, stdout and stderr are files in memory, so neither side blocks, however much is written. With err False,
    its stderr is that of the plugin, where CNI expects a plugin's log.
    """

    def __init__(
        self, argv: list[str], stdin: bytes, env: dict[bytes, bytes] | None = None, *, err: bool = True
    ) -> None:
        """Start the program. Raises OSError."""
        self._files = [_file(stdin), _file(), *([_file()] if err else [])]
        actions = [(posix.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(self._files)]
        environ = posix.environ if env is None else env
        try:
            self._pid = posix.posix_spawn(argv[0], argv, environ, file_actions=actions, setsigdef=_IGNORED)
        except OSError:
            self._close()
            raise

    def wait(self) -> Ran:
        """Wait for the end of the program, and return its status and output."""
        status = posix.waitstatus_to_exitcode(posix.waitpid(self._pid, 0)[1])
        written = [_content(fd) for fd in self._files[1:]]
        self._close()
        return Ran(status, written[0], written[1] if len(written) > 1 else b"")

    def _close(self) -> None:
        for fd in self._files:
            posix.close(fd)


def run(argv: list[str], stdin: bytes, env: dict[bytes, bytes] | None = None, *, err: bool = True) -> Ran:
    """Run a program to completion. Raises OSError."""
    return Running(argv, stdin, env, err=err).wait()


def _is_directory(path: str) -> bool:
    return posix.stat(path).st_mode & 0o170000 == 0o040000


def _file(content: bytes = b"") -> int:
    fd = posix.memfd_create("vethd-cni", posix.MFD_CLOEXEC)
    while content:
        content = content[posix.write(fd, content) :]
    posix.lseek(fd, 0, 0)
    return fd


def _content(fd: int) -> bytes:
    data = b""
    posix.lseek(fd, 0, 0)
    while more := posix.read(fd, _CHUNK):
        data += more
    return data
