"""Generate a link's options from LinkSpec's fields, so that each attribute is defined in one place for all interfaces.

A field `gso_max_size: int | None` becomes --gso-max-size and, for the peer, --peer-gso-max-size; a boolean
becomes --up/--no-up. A new field becomes an option automatically; HELP holds the help texts.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import click
import msgspec

from vethd.model.spec import (
    ALIAS_MAX,
    ALTNAME_MAX,
    MTU_MAX,
    MTU_MIN,
    QUEUES_MAX,
    RING_MAX,
    RING_MIN,
    TXQUEUELEN,
    LinkSpec,
    PairSpec,
)

NEAR = ""
PEER = "peer"

HELP: dict[str, tuple[str, str]] = {
    "name": ("NAME", "name; at creation one %d in it is replaced by the first free number"),
    "netns": ("NETNS", "network namespace: a name of `ip netns`, a path, a PID or fd:N"),
    "address": ("MAC", "MAC address"),
    "mtu": ("BYTES", f"MTU, {MTU_MIN} to {MTU_MAX}"),
    "txqueuelen": ("FRAMES", f"transmit queue length, which limits nothing, as on veth; default {TXQUEUELEN}"),
    "ring": ("FRAMES", f"frames queued while vethd is busy, {RING_MIN} to {RING_MAX}; 0 means the daemon's default"),
    "queues": ("N", f"number of queues, 1 to {QUEUES_MAX}"),
    "index": ("IFINDEX", "interface index"),
    "group": ("N", "device group"),
    "alias": ("TEXT", f'ifalias, at most {ALIAS_MAX} bytes; "" removes it'),
    "altname": ("NAME", f"alternative name, at most {ALTNAME_MAX} bytes"),
    "master": ("DEVICE", 'bridge or other master device; "" removes the link from it'),
    "up": ("", "administrative state"),
    "arp": ("", "ARP"),
    "multicast": ("", "the MULTICAST flag"),
    "allmulticast": ("", "reception of all multicast frames"),
    "promisc": ("", "promiscuous mode"),
    "addrgenmode": ("", "how the kernel generates the IPv6 link-local address"),
    "gso_max_size": ("BYTES", "largest GSO frame that the stack passes to the device"),
    "gso_max_segs": ("N", "largest number of segments in a GSO frame for the device"),
    "gro_max_size": ("BYTES", "largest frame that GRO builds on the device"),
}


def rx_checksum_option() -> click.Option:
    """Make --rx-checksum, an option of the pair."""
    choices = get_args(_field_type(PairSpec, "rx_checksum"))
    text = "How to treat frames whose checksum is not verified: leave them (verify) or mark them as verified (trust)."
    return click.Option(["--rx-checksum"], type=click.Choice(choices), help=text)


def gro_option(text: str, *more: str) -> click.Option:
    """Make --gro with the values on, off and more; text is appended to the help text."""
    text = f"Whether to coalesce frames of one flow{text}."
    return click.Option(["--gro"], type=click.Choice(("on", "off", *more)), callback=_on_or_off, help=text)


def latency_queue_option() -> click.Option:
    """Make --latency-queue, an option of the pair."""
    text = "Give frames other than TCP a queue of their own, which is read first."
    return click.Option(["--latency-queue/--no-latency-queue"], default=None, help=text)


def _on_or_off(_ctx: click.Context, _param: click.Parameter, value: str | None) -> bool | str | None:
    return {"on": True, "off": False}.get(value, value) if value is not None else None


def link_options(end: str, *, without: Collection[str] = ()) -> list[click.Parameter]:
    """Make the options of one end, NEAR or PEER. Their values are stored for said(), not passed to the command."""
    return [_option(end, name) for name in LinkSpec.__struct_fields__ if name not in without]


def said(ctx: click.Context, end: str) -> dict[str, Any]:
    """Return the attributes of an end on the command line, by field of LinkSpec."""
    values: dict[str, Any] = ctx.meta.get(_meta_key(end), {})
    return values


def _option(end: str, name: str) -> click.Option:
    prefix = f"{end}-" if end else ""
    flag = prefix + name.replace("_", "-")
    metavar, text = HELP.get(name, ("", name.replace("_", " ")))
    text = f"{'Peer: ' if end else ''}{text}."
    kind = _field_type(LinkSpec, name)
    declarations = [f"--{flag}"]
    if kind is bool:
        declarations = [f"--{flag}/--{prefix}no-{name.replace('_', '-')}"]
    elif end == PEER and name == "name":
        declarations.insert(0, "--peer")
    type_: click.ParamType[Any] | None = None
    if get_origin(kind) is Literal:
        type_ = click.Choice(get_args(kind))
    elif kind is int:
        type_ = click.INT

    def keep(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.meta.setdefault(_meta_key(end), {})[name] = value

    return click.Option(
        [*declarations, f"{end}_{name}"],
        type=type_,
        default=None,
        metavar=metavar or None,
        help=text[:1].upper() + text[1:],
        callback=keep,
        expose_value=False,
    )


def _meta_key(end: str) -> str:
    return f"{__name__}.{end}"


def _field_type(struct: type[msgspec.Struct], name: str) -> Any:
    """Return a field's type without None; a Literal is returned as it is."""
    kind = _field_types(struct)[name]
    return next((choice for choice in get_args(kind) if choice is not NoneType), kind)


@cache  # msgspec evaluates the annotations at each call, which takes half a millisecond
def _field_types(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {info.name: info.type for info in msgspec.structs.fields(struct)}
