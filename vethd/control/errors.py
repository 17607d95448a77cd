"""The client's error for an unreachable daemon."""

from __future__ import annotations


class DaemonDown(Exception):  # noqa: N818  it names a state, as the subclasses of ConnectionError do
    """No vethd answers at a socket: holds the socket, the reason and advice."""

    def __init__(self, socket: str, reason: str, advice: str = "") -> None:
        """Take the control socket, the reason and the advice, which is a clause of its own."""
        self.socket = socket
        self.reason = reason
        self.advice = advice
        super().__init__(socket, reason, advice)

    def __str__(self) -> str:
        """Return one sentence: reason, socket, advice."""
        sentence = f"{self.reason} at {self.socket}"
        return f"{sentence}: {self.advice}" if self.advice else sentence
