"""Saved pairs on disk: what was saved is loaded, whole files only, and a file that is wrong says what and where."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Self

import pytest

from vethd.memory.store import Store
from vethd.model.errors import ConfigError, VethError
from vethd.model.spec import LinkSpec, PairSpec

PAIRS = [
    PairSpec(name="va", netns="red", mtu=9000, up=True, peer=LinkSpec(name="vb", up=True), rx_checksum="trust"),
    PairSpec(name="vc"),
]


def test_round_trip(tmp_path: Path) -> None:
    """In a directory that is made for it; by another Store; and every attribute."""
    said = {
        "name": "ve", "netns": "red", "address": "02:00:00:00:00:01", "mtu": 1400, "txqueuelen": 5, "ring": 64,
        "queues": 2, "index": 7, "group": 3, "alias": "grün", "altname": "long-name-of-the-end", "master": "br0",
        "up": True, "arp": False, "multicast": False, "allmulticast": True, "promisc": True, "addrgenmode": "none",
        "gso_max_size": 1, "gso_max_segs": 2, "gro_max_size": 3,
    }  # fmt: skip
    assert set(said) == set(LinkSpec.__struct_fields__)
    pairs = [*PAIRS, PairSpec(**said, peer=LinkSpec(**said | {"name": "vf"}))]  # type: ignore[arg-type]
    directory = tmp_path / "deep" / "er"
    Store(str(directory)).save(pairs)
    assert Store(str(directory)).load() == pairs


def test_nothing_saved(tmp_path: Path) -> None:
    assert Store(str(tmp_path / "nowhere")).load() == []
    Store(str(tmp_path)).save([])
    assert Store(str(tmp_path)).load() == []


def test_save_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.save(PAIRS)
    before = store.file.stat().st_ino
    store.save(PAIRS[:1])
    assert store.load() == PAIRS[:1]
    assert store.file.stat().st_ino != before
    assert os.listdir(tmp_path) == [store.file.name]  # noqa: PTH208 - names are what is asked


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    store = Store(str(tmp_path))
    store.save(PAIRS)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        fdopen = os.fdopen

        class Full:
            def __init__(self, fd: int) -> None:
                self.file = fdopen(fd, "wb")

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

            write = fail

        monkeypatch.setattr(os, "fdopen", lambda fd, _: Full(fd))
    with pytest.raises(VethError) as caught:
        store.save([])
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert str(store.file) in str(caught.value)
    assert store.load() == PAIRS
    assert os.listdir(tmp_path) == [store.file.name]  # noqa: PTH208 - names are what is asked


def test_state_directory_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(VethError) as caught:
        Store(str(file)).save(PAIRS)
    assert caught.value.errno in (errno.EEXIST, errno.ENOTDIR)
    with pytest.raises(ConfigError):
        Store(str(file)).load()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "expected table, got array"),
        (b'{"pair": [{"nmae": "va"}]}', "pair[0].nmae: unknown key (did you mean name?)"),
        (b'{"pair": [{"mtu": "9000"}]}', "pair[0].mtu: expected int, got str"),
        (b'{"pairs": []}', "pairs: unknown key (did you mean pair?)"),
        (b'{"pair": [{"name": "\xff"}]}', "not JSON"),
        (b'{"pair": [{"name": "va"}, {"name": "vb", "address": "nonsense"}]}', "pair[1]: address"),
        (b'{"pair": [{"name": "va", "peer": {"mtu": 67}}]}', "pair[0].peer: mtu"),
        (b'{"pair": [{"name": "a/b"}]}', "pair[0]: 'a/b'"),
    ],
)
def test_bad_file_is_told_with_its_name(tmp_path: Path, text: bytes, reason: str) -> None:
    store = Store(str(tmp_path))
    store.file.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        store.load()
    assert caught.value.file == str(store.file)
    assert reason in str(caught.value)


def test_file_is_for_people_to_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.save(PAIRS)
    text = store.file.read_text()
    assert json.loads(text)["pair"][1] == {"name": "vc"}
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 5


def test_a_file_that_cannot_be_read_is_set_aside_not_written_over(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.file.write_text("{damaged")
    with pytest.raises(ConfigError):
        store.load()
    aside = store.set_aside()
    assert aside is not None
    store.save([])
    assert aside.read_text() == "{damaged"
    assert store.load() == []


def test_nothing_to_set_aside(tmp_path: Path) -> None:
    assert Store(str(tmp_path)).set_aside() is None
