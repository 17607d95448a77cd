"""What a client can meet beside a refusal: nobody there to refuse."""

from __future__ import annotations


class DaemonDown(Exception):  # noqa: N818  a state of the world, as ConnectionError's children are named
    """Report that no vethd answers at a socket: which one, why, and what to do about it."""

    def __init__(self, socket: str, reason: str, advice: str = "") -> None:
        """Name the control socket; advice is a clause of its own."""
        self.socket = socket
        self.reason = reason
        self.advice = advice
        super().__init__(socket, reason, advice)

    def __str__(self) -> str:
        """One plain sentence: reason, socket, advice."""
        sentence = f"{self.reason} at {self.socket}"
        return f"{sentence}: {self.advice}" if self.advice else sentence
