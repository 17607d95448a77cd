"""Every parser, short: the corpus replayed, and altered at random; `make fuzz` does it for long."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import CORPUS, TARGETS, corpus, mutated

FILES = [(target, path) for target in TARGETS for path in corpus(target)]


def one_input(target: str) -> Callable[[bytes], None]:
    found: Callable[[bytes], None] = importlib.import_module(f"tests.fuzz.{target}").one_input
    return found


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS) == {target for target, _ in FILES}


@pytest.mark.parametrize(("target", "path"), FILES, ids=[f"{target}-{path.name}" for target, path in FILES])
def test_corpus(target: str, path: Path) -> None:
    one_input(target)(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_altered(target: str, data: st.DataObject) -> None:
    seeds = [path.read_bytes() for path in corpus(target)]
    one_input(target)(data.draw(mutated(seeds) | st.binary(max_size=200)))


def test_a_target_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that judges another way is found out."""
    frames = importlib.import_module("tests.fuzz.frames")
    monkeypatch.setattr(frames._native, "verdict", lambda *_: (0, b""))
    with pytest.raises(AssertionError):
        frames.one_input((CORPUS / "frames" / "udp4").read_bytes())
