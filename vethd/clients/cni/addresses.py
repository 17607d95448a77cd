"""Addresses with prefixes, as far as a plugin must understand them: the ipaddress module takes 5 ms to import."""

from __future__ import annotations

import _socket


class AddressError(Exception):
    """A text that is no address."""


class Subnet:
    """An address and its prefix: "10.88.0.2/16". bits is how many an address of the family has."""

    def __init__(self, text: str) -> None:
        """Read it. Raises AddressError."""
        ip, slash, prefix = text.partition("/")
        self.version = 6 if ":" in ip else 4
        self.bits = 128 if self.version == 6 else 32
        self._family = _socket.AF_INET6 if self.version == 6 else _socket.AF_INET
        try:
            self.packed = _socket.inet_pton(self._family, ip)
        except (OSError, ValueError):
            raise AddressError(f"{text!r} is no address") from None
        if not slash or not (prefix.isascii() and prefix.isdigit()) or int(prefix) > self.bits:
            raise AddressError(f"{text!r} has no prefix")
        self.prefix = int(prefix)
        self.ip = ip

    def first(self) -> str:
        """Return the first address that a host of the subnet may have."""
        host_bits = self.bits - self.prefix
        number = (int.from_bytes(self.packed, "big") >> host_bits << host_bits) + 1
        return self._text(number % (1 << self.bits))

    def network(self) -> str:
        """Return the subnet: "10.88.0.0/16"."""
        host_bits = self.bits - self.prefix
        return f"{self._text(int.from_bytes(self.packed, 'big') >> host_bits << host_bits)}/{self.prefix}"

    def _text(self, number: int) -> str:
        return _socket.inet_ntop(self._family, number.to_bytes(self.bits // 8, "big"))
