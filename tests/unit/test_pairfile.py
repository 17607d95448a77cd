"""Files of [[pair]] tables: what is read, and where and why it is refused."""

from __future__ import annotations

import errno
import tomllib
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vethd.model.errors import ConfigError, VethError
from vethd.model.pairfile import _fault, convert, read_pairs, read_toml
from vethd.model.spec import LinkSpec, PairSpec, validate_link


class Api(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    socket: str = "/run/s"
    mode: Literal["a", "b"] = "a"


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    api: Api = msgspec.field(default_factory=Api)
    pair: list[PairSpec] = msgspec.field(default_factory=list)
    limits: dict[str, int] = msgspec.field(default_factory=dict)
    level: Annotated[int, msgspec.Meta(ge=0, le=8)] = 0


def test_tables_become_specs() -> None:
    text = (
        '[[pair]]\nname = "va"\nup = true\n[pair.peer]\nname = "vb"\nnetns = "red"\nup = true\n[[pair]]\nmtu = 9000\n'
    )
    assert read_pairs(text, "f") == [
        PairSpec(name="va", up=True, peer=LinkSpec(name="vb", netns="red", up=True)),
        PairSpec(mtu=9000),
    ]
    assert read_pairs("", "f") == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[[pair]]\n[pair.peer]\nmtu = "9"', "demo.toml: pair[0].peer.mtu: expected int, got str"),
        ("[[pair]]\n[[pair]]\nmtu = 1.5", "demo.toml: pair[1].mtu: expected int, got float"),
        ("[[pair]]\nup = 1", "demo.toml: pair[0].up: expected bool, got int"),
        ("[[pair]]\nmtuu = 9", "demo.toml: pair[0].mtuu: unknown key (did you mean mtu?)"),
        ("[[pair]]\n[pair.peer]\nnetsn = 'x'", "demo.toml: pair[0].peer.netsn: unknown key (did you mean netns?)"),
        ("[[pairs]]\nname = 'x'", "demo.toml: pairs: unknown key (did you mean pair?)"),
        ("zebra = 1", "demo.toml: zebra: unknown key"),
        ("pair = 1", "demo.toml: pair: expected array, got int"),
        ("pair = [1]", "demo.toml: pair[0]: expected table, got int"),
        (
            "[[pair]]\naddrgenmode = 'x'",
            "demo.toml: pair[0].addrgenmode: expected one of eui64, none, stable_secret, random, got 'x'",
        ),
        ("[[pair]]\nmtu = 5", "demo.toml: pair[0].mtu: mtu 5 is outside 68..65521"),
        (
            "[[pair]]\n[pair.peer]\naddress = 'x'",
            "demo.toml: pair[0].peer.address: address 'x' is not 6 bytes in the form xx:xx:xx:xx:xx:xx",
        ),
        ("[[pair]]\nname = 'a b'", "demo.toml: pair[0].name: 'a b' is not a valid device name"),
        ("[[pair]]\nname='v'\n[[pair]]\nname='v'", "demo.toml: pair[1].name: v is already the name of pair[0]"),
        (
            "[[pair]]\nname='v'\nnetns='r'\n[[pair]]\n[pair.peer]\nname='v'\nnetns='/run/netns/r'",
            "demo.toml: pair[1].peer.name: v is already the name of pair[0]",
        ),
    ],
)
def test_errors_name_file_key_and_reason(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_pairs(text, "demo.toml")
    assert str(caught.value) == sentence


def test_same_name_elsewhere_and_patterns_are_fine() -> None:
    read_pairs("[[pair]]\nname='v'\n[[pair]]\nname='v'\nnetns='r'\n[[pair]]\nname='v%d'\n[[pair]]\nname='v%d'", "f")


def test_broken_toml() -> None:
    text = "x = 1\ny = z"
    with pytest.raises(tomllib.TOMLDecodeError) as parsers:
        tomllib.loads(text)
    with pytest.raises(ConfigError) as caught:
        read_toml(text, "f")
    assert str(caught.value) == f"f: not TOML: {parsers.value}"


@pytest.mark.parametrize(
    ("table", "key", "sentence"),
    [
        ({"api": {"sokcet": "x"}}, "", "f: api.sokcet: unknown key (did you mean socket?)"),
        ({"api": {"mode": "c"}}, "", "f: api.mode: expected one of a, b, got 'c'"),
        ({"pair": [{"peer": {"up": "x"}}]}, "", "f: pair[0].peer.up: expected bool, got str"),
        ({"limits": {"x": "y"}}, "", "f: limits.x: expected int, got str"),
        ({"level": 9}, "", "f: level: expected int <= 8"),
        ({"level": -1}, "", "f: level: expected int >= 0"),
        ({"api": 3}, "net", "f: net.api: expected table, got int"),
        ({"apy": 3}, "net", "f: net.apy: unknown key (did you mean api?)"),
    ],
)
def test_any_table_converts(table: dict[str, object], key: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(table, Config, "f", key)
    assert str(caught.value) == sentence


def test_a_list_below_a_key() -> None:
    with pytest.raises(ConfigError) as caught:
        convert([{"mtu": "x"}], list[PairSpec], "f", "pair")
    assert caught.value.key == "pair[0].mtu"
    assert convert({}, Config, "f", "").api.socket == "/run/s"


def test_no_word_of_msgspecs_message_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise msgspec.ValidationError("words of a release to come")

    monkeypatch.setattr(msgspec, "convert", refuse)
    with pytest.raises(ConfigError) as caught:
        convert({"api": {"sokcet": 1}}, Config, "f", "net")
    assert str(caught.value) == "f: net.api.sokcet: unknown key (did you mean socket?)"
    with pytest.raises(ConfigError) as caught:
        convert({"api": {"socket": "x"}}, Config, "f", "net")
    assert str(caught.value) == "f: net: words of a release to come", "a fault that only msgspec sees"


VALUES: st.SearchStrategy[object] = st.sampled_from(
    ["a", "c", "x", 0, 1, 9, -1, 1.0, 1.5, True, None, [], {}, ["a"], [1, "x"]]
)
TABLES = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["api", "pair", "limits", "level", "socket", "mode", "peer", "mtu"]), inner)
    ),
    max_leaves=6,
)


@given(TABLES)
def test_the_fault_is_found_wherever_msgspec_finds_one(table: object) -> None:
    try:
        msgspec.convert(table, Config, strict=True)
    except msgspec.ValidationError:
        assert _fault(table, Config) is not None
    else:
        assert _fault(table, Config) is None


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=4) | st.booleans(), max_size=4))
def test_any_pair_table_is_read_or_refused_by_name(table: dict[str, object]) -> None:
    spec, key = None, ""
    try:
        spec = convert(table, PairSpec, "f", "pair[0]")
    except ConfigError as error:
        key = error.key
    if spec is None:
        assert key.startswith("pair[0].")
    else:
        assert {name for name in table if getattr(spec, name) is not None} == set(table)


def test_validation_is_the_models() -> None:
    with pytest.raises(VethError) as caught:
        validate_link(LinkSpec(mtu=5))
    assert caught.value.errno == errno.EINVAL
