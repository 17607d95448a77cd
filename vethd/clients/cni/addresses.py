"""Addresses with prefixes. This replaces the ipaddress module, which takes 5 ms to import."""

from __future__ import annotations

import _socket


class AddressError(Exception):
    """The text is not an address with a prefix."""


class Subnet:
    """An address and its prefix: "10.88.0.2/16". bits is the length of an address of the family."""

    def __init__(self, text: str) -> None:
        """Parse text. Raises AddressError."""
        ip, slash, prefix = text.partition("/")
        self.version = 6 if ":" in ip else 4
        self.bits = 128 if self.version == 6 else 32
        self._family = _socket.AF_INET6 if self.version == 6 else _socket.AF_INET
        try:
            self.packed = _socket.inet_pton(self._family, ip)
        except (OSError, ValueError):
            raise AddressError(f"{text!r} is not an IP address with a prefix") from None
        if not slash or not (prefix.isascii() and prefix.isdigit()) or int(prefix) > self.bits:
            raise AddressError(f"{text!r} has no valid prefix")
        self.prefix = int(prefix)
        self.ip = ip

    def first(self) -> str:
        """Return the first host address of the subnet."""
        host_bits = self.bits - self.prefix
        number = (int.from_bytes(self.packed, "big") >> host_bits << host_bits) + 1
        return self._text(number % (1 << self.bits))

    def network(self) -> str:
        """Return the subnet: "10.88.0.0/16"."""
        host_bits = self.bits - self.prefix
        return f"{self._text(int.from_bytes(self.packed, 'big') >> host_bits << host_bits)}/{self.prefix}"

    def _text(self, number: int) -> str:
        return _socket.inet_ntop(self._family, number.to_bytes(self.bits // 8, "big"))
