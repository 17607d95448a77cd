"""Parse the words of `ip link show` that select links, as far as vethd needs them."""

from __future__ import annotations

_VALUED = ("to", "scope", "label", "group", "master", "vrf", "type", "dev")


class Selection:
    """The words of `link show` without `type veth`, the device and the kind that they select; "" for none."""

    __slots__ = ("dev", "kind", "words")

    def __init__(self, words: list[str]) -> None:
        self.words: list[str] = []
        self.dev = ""
        self.kind = ""
        rest = iter(words)
        for word in rest:
            value = next(rest, None) if word in _VALUED else None
            if word == "type":
                self.kind = value or ""
            elif word == "dev" or value is None:
                self.dev = self.dev if word in ("up", "nomaster") else value or word
            if (word, value) != ("type", "veth"):
                self.words += [word] if value is None else [word, value]
