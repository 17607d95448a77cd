"""`ip -batch FILE`: carry out vethd's lines here, and pass the lines between them to the real ip in one piece.

The real ip numbers the lines that it reads, so each piece is preceded by as many empty lines as the file has before it.
Lines from a pipe are carried out as they arrive: a program may wait for the answer to a line before it writes the next.
"""

from __future__ import annotations

import posix

from vethd.clients.ip import real as real_ip
from vethd.clients.ip.line import Line, verb
from vethd.clients.ip.roads import ElsewhereError, MistakeError, carry_out
from vethd.clients.paths import socket_path, there
from vethd.clients.process import become, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FAILED = 1
USAGE = 255
_WHITE = " \t\r\n"
_CHUNK = 1 << 16


class _Over(Exception):  # noqa: N818 - an end, no error
    """The batch ends here, with the given status."""

    def __init__(self, status: int) -> None:
        self.status = status


class Batch:
    """One batch: the lines that wait for the real ip, and the status of those before."""

    def __init__(self, real: str, line: Line, name: str) -> None:
        """Begin; name is the file's name in iproute2's messages."""
        self.status = 0
        self._real = real
        self._line = line
        self._name = name
        self._force = "force" in line.rows
        self._number = 0
        self._waiting: list[bytes] = []
        self._first = 0

    def take(self, text: bytes) -> None:
        """Carry out one line, with its continuation lines. Raises _Over."""
        words = split(text)
        before, self._number = self._number, self._number + text.count(b"\n") + (not text.endswith(b"\n"))
        what = verb(words or [])
        if words and what and (what in ("add", "replace") or there(socket_path())) and self._ours(words, text, before):
            return
        if not self._waiting:
            self._first = before
        self._waiting.append(text)

    def flush(self) -> None:
        """Pass the waiting lines to the real ip. Raises _Over."""
        if self._waiting:
            text, self._waiting = b"".join(self._waiting), []
            self._became(self._give(text, self._first), told=True)

    def _ours(self, words: list[str], text: bytes, before: int) -> bool:
        """Carry out a line that may be vethd's, after the waiting lines; return whether it was vethd's."""
        self.flush()
        try:
            self._became(carry_out(self._real, self._line, words), told=False)
        except ElsewhereError:
            return False
        except MistakeError:
            self._became(self._give(text, before, harmless=True), told=True)
        return True

    def _give(self, text: bytes, before: int, *, harmless: bool = False) -> int:
        args = self._line.again("-batch", "-")
        catch = "" if self._name == "-" else "e"
        first = real_ip.give_up_rights if harmless else None
        ran = real_ip.run(self._real, args, catch=catch, stdin=b"\n" * before + text, first=first)
        name = self._name.encode("utf-8", "surrogateescape")
        real_ip.write(2, ran.err.replace(b"Command failed -:", b"Command failed " + name + b":"))
        return ran.status

    def _became(self, status: int, *, told: bool) -> None:
        """Note a status; told: the real ip has already printed the line's number. It exits at once with 255."""
        if not status:
            return
        if not told and status != USAGE:
            say(f"Command failed {self._name}:{self._number}\n")
        self.status = FAILED
        if status not in (FAILED, real_ip.REFUSED) or not self._force:
            raise _Over(status if told or status == USAGE else FAILED)


def run_batch(real: str, line: Line, name: str) -> int:
    """Carry out a batch and return its status."""
    try:
        fd = 0 if name == "-" else posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return become(real, line.again("-batch", name))
    batch = Batch(real, line, name)
    try:
        for text in lines(fd):
            if text:
                batch.take(text)
            else:
                batch.flush()
        batch.flush()
    except _Over as over:
        return over.status
    return batch.status


def split(text: bytes) -> list[str] | None:
    """Split a line into words as iproute2 does: quotes, comments, continuation; None if iproute2 would refuse it."""
    line = "".join(part.partition("#")[0] for part in text.decode("utf-8", "surrogateescape").split("\\\n"))
    words: list[str] = []
    while line := line.lstrip(_WHITE):
        if line[0] in "'\"":
            word, quote, line = line[1:].partition(line[0])
            if not quote:
                return None
        else:
            end = next((at for at, char in enumerate(line) if char in _WHITE), len(line))
            word, line = line[:end], line[end:]
        words.append(word)
    return words


def lines(fd: int) -> Iterator[bytes]:
    """Yield the lines of a file as they arrive, each with its continuation lines; b"" before a read that may block."""
    pending = b""
    while chunk := posix.read(fd, _CHUNK):
        pending += chunk
        start = 0
        while (end := pending.find(b"\n", start)) >= 0:
            if continued(pending[start:end]):
                start = end + 1
                continue
            yield pending[: end + 1]
            pending, start = pending[end + 1 :], 0
        yield b""
    if pending:
        yield pending


def continued(line: bytes) -> bool:
    r"""Return whether a line ends in a \ that is not in a comment."""
    return line.endswith(b"\\") and b"#" not in line
