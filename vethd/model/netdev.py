"""Reads systemd's .netdev files of kind veth, as systemd.netdev(5) and systemd.syntax(7) describe them.

Pure: text in, a spec out. An unknown key or an invalid value, for which systemd-networkd logs a warning and continues,
is an error here, with the line number: a pair that differs from its file is of no use.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import NoReturn

from vethd.model.errors import ConfigError, VethError
from vethd.model.spec import LinkSpec, PairSpec, validate_link

KIND = "veth"
KEYS = {
    "NetDev": ("Name", "Kind", "Description", "MTUBytes", "MACAddress"),
    "Peer": ("Name", "MACAddress"),
}

_BLANKS = " \t\n\r"
_HEADER = re.compile(r"\[(.*)\]\Z", re.DOTALL)
_SIZE = re.compile(r"([0-9]+)[ \t]*([BKMG]?)\Z")
_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_NAME = re.compile(r"(?!(\.|\.\.|all|default|[0-9]+)\Z)[!-$&-.0-9;-~]+\Z")  # no %, / or :
_BYTES = re.compile(r"[0-9a-fA-F]{1,2}(?:([:-])[0-9a-fA-F]{1,2}(?:\1[0-9a-fA-F]{1,2})*)\Z")
_WORDS = re.compile(r"[0-9a-fA-F]{1,4}(?:\.[0-9a-fA-F]{1,4}){2}\Z")


def read_netdev(text: str, file: str) -> PairSpec:
    """Read a .netdev file: [NetDev] is the near end, [Peer] its peer; both are in the caller's namespace.

    If a key is given twice, the last value counts. The MTU applies to both ends, as in networkd 252. A MAC address that
    is missing, empty or "none" is random. Differs: networkd derives a missing MAC address from the name and the machine
    id. Raises ConfigError with the line number.
    """
    said = _settings(text, file)
    kind = said.get(("NetDev", "Kind"))
    if kind is None:
        raise ConfigError(file, "NetDev.Kind", "missing")
    if kind[1] != KIND:
        _refuse(file, kind[0], "NetDev.Kind", f"vethd cannot make kind {kind[1]!r}, only veth")
    ends = []
    for section in KEYS:
        if (section, "Name") not in said:
            raise ConfigError(file, f"{section}.Name", "missing")
        ends.append(_link(section, said, file))
    near, peer = ends
    if near.name == peer.name:
        _refuse(file, said["Peer", "Name"][0], "Peer.Name", f"{peer.name} is already the name of the other end")
    return PairSpec(
        name=near.name,
        address=near.address,
        mtu=near.mtu,
        peer=LinkSpec(name=peer.name, address=peer.address, mtu=near.mtu),
    )


def _settings(text: str, file: str) -> dict[tuple[str, str], tuple[int, str]]:
    """Return {(section, key): (line number, value)}."""
    said: dict[tuple[str, str], tuple[int, str]] = {}
    section: str | None = None
    for number, line in _lines(text):
        if line.startswith("["):
            header = _HEADER.match(line)
            if header is None:
                _refuse(file, number, "", f"{line!r}: a section header must end with ]")
            section = header[1]
            if section not in KEYS and not section.startswith("X-"):
                _refuse(file, number, section, "unknown section (the sections of a veth are [NetDev] and [Peer])")
            continue
        key, equals, value = (part.strip(_BLANKS) for part in line.partition("="))
        if section is None:
            _refuse(file, number, "", f"{line!r} comes before the first section")
        if not equals or not key:
            _refuse(file, number, section, f"{line!r} is not KEY=VALUE")
        if section.startswith("X-") or key.startswith("X-"):  # systemd.syntax(7): for other programs
            continue
        if key not in KEYS[section]:
            near = difflib.get_close_matches(key, KEYS[section], n=1)
            _refuse(file, number, f"{section}.{key}", f"unknown key{f' (did you mean {near[0]}?)' if near else ''}")
        said[section, key] = number, value
    return said


def _lines(text: str) -> Iterator[tuple[int, str]]:
    r"""Yield each line that is neither blank nor a comment, stripped, with its line number.

    A line that ends in a backslash continues on the next line, except after "\\"; comments in between are skipped. The
    number of such a line is that of its first part.
    """
    begun, number = "", 0
    for here, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if line.strip(_BLANKS)[:1] in ("#", ";"):
            continue
        number = number or here
        line = line.rstrip("\r")  # noqa: PLW2901 - the file may have CRLF line ends
        if (len(line) - len(line.rstrip("\\"))) % 2:
            begun += f"{line[:-1]} "
            continue
        whole = (begun + line).strip(_BLANKS)
        if whole:
            yield number, whole
        begun, number = "", 0
    if begun.strip(_BLANKS):
        yield number, begun.strip(_BLANKS)


def _link(section: str, said: dict[tuple[str, str], tuple[int, str]], file: str) -> LinkSpec:
    """Return one end. Each attribute is checked by itself, so that the error has the attribute's line number."""
    values: dict[str, str | int] = {}
    for key, name, read in (("Name", "name", _name), ("MACAddress", "address", _mac), ("MTUBytes", "mtu", _size)):
        number, text = said.get((section, key), (0, ""))
        if not number or (key == "MACAddress" and text in ("", "none")):
            continue
        try:
            values[name] = read(text)
            validate_link(LinkSpec(**{name: values[name]}))  # type: ignore[arg-type]
        except ValueError as error:
            _refuse(file, number, f"{section}.{key}", str(error))
        except VethError as error:
            _refuse(file, number, f"{section}.{key}", error.reason)
    return LinkSpec(**values)  # type: ignore[arg-type]


def _name(text: str) -> str:
    if not _NAME.match(text):
        raise ValueError(f"{text!r} is not a valid device name")
    return text


def _size(text: str) -> int:
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number of bytes, with an optional suffix K, M or G")
    return int(match[1]) * _UNITS[match[2]]


def _mac(text: str) -> str:
    """Return a MAC address as ip(8) writes it, from any of the three spellings that systemd accepts."""
    if _WORDS.match(text):
        return ":".join(f"{byte:02x}" for word in text.split(".") for byte in divmod(int(word, 16), 256))
    if not _BYTES.match(text):
        raise ValueError(f"{text!r} is not a MAC address")
    return text.replace("-", ":")


def _refuse(file: str, number: int, key: str, reason: str) -> NoReturn:
    raise ConfigError(f"{file}:{number}", key, reason)
