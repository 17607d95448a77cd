"""What holds for all pairs: what a wire is told, what a change does, and how a pair's word is kept."""

from __future__ import annotations

import asyncio
import errno
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from vethd.datapath import engines
from vethd.datapath.engine import ThreadedEngine
from vethd.datapath.engines import Asked, Picked, pick_engine
from vethd.model.api import EngineChange, EngineInfo, LinkInfo, PairChange
from vethd.model.drops import DROPS
from vethd.model.errors import VethError
from vethd.model.kernel_drops import KernelDrops
from vethd.model.record import EndRecord, PairRecord, decode, encode, encode_pair
from vethd.model.spec import LinkSpec, PairSpec
from vethd.pairs.entry import Entry, merged
from vethd.pairs.manager import Manager
from vethd.pairs.tuning import Tuning

SPEC = PairSpec(name="va", peer=LinkSpec(name="vb"))
LINKS: tuple[LinkInfo, ...] = ()


class Spinner:
    """An engine as far as tuning sees one."""

    name = "native"
    workers = 2

    def __init__(self, spin_us: int = 50, moderation_us: int = 50) -> None:
        self.spin_us = spin_us
        self.moderation_us = moderation_us

    def join(self, *_: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """See Engine."""

    def set_times(self, spin_us: int, moderation_us: int) -> None:
        self.spin_us = spin_us
        self.moderation_us = moderation_us and max(moderation_us, 20)

    def begin(self) -> None:
        raise NotImplementedError

    def attach(self, _loop: object) -> None:
        raise NotImplementedError


class Wire:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, bool] = {}

    def set_trust(self, *, trust: bool) -> None:
        self.told["trust"] = trust

    def set_gro(self, *, gro: bool, udp: bool = True) -> None:
        self.told |= {"gro": gro, "udp": udp}


def told(tuning: Tuning, spec: PairSpec, *, uso: bool = True) -> dict[str, bool]:
    wire = Wire()
    tuning.tune(wire, spec, uso=uso)  # type: ignore[arg-type]
    return wire.told


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("said", [True, False, None])
def test_a_pair_that_says_nothing_follows_the_daemon(said: bool | None, default: bool) -> None:
    tuning = Tuning(Picked(Spinner()), gro=default)
    spec = msgspec.structs.replace(SPEC, gro=said)
    assert told(tuning, spec) == {"trust": False, "gro": default if said is None else said, "udp": True}
    assert told(tuning, spec, uso=False)["udp"] is False
    assert tuning.change(EngineChange(gro=not default)) == [f"gro {'off' if default else 'on'}"]
    assert told(tuning, spec)["gro"] is (not default if said is None else said)
    assert tuning.gro(spec) is told(tuning, spec)["gro"]


def test_rx_checksum_is_trust() -> None:
    tuning = Tuning(Picked(Spinner()), gro=True)
    assert told(tuning, msgspec.structs.replace(SPEC, rx_checksum="trust"))["trust"] is True
    assert told(tuning, msgspec.structs.replace(SPEC, rx_checksum="verify"))["trust"] is False


def test_only_what_differs_is_changed() -> None:
    tuning = Tuning(Picked(Spinner()), gro=True)
    assert tuning.change(EngineChange()) == []
    assert tuning.change(EngineChange(spin_us=50, gro=True)) == []
    assert tuning.change(EngineChange(spin_us=0, gro=False)) == ["spin_us 0", "gro off"]
    assert tuning.change(EngineChange(moderation_us=5)) == ["moderation_us 20"]
    assert tuning.change(EngineChange(moderation_us=6)) == []
    info = EngineInfo(name="native", workers=2, spin_us=0, moderation_us=20, gro=False, fallback="")
    assert tuning.info() == info


@pytest.mark.parametrize(("own", "words"), [({"spin_us": 1}, "no spin_us"), ({"moderation_us": 0}, "no moderation_us")])
def test_an_engine_without_threads(own: dict[str, int], words: str) -> None:
    tuning = Tuning(Picked(SimpleNamespace(name="asyncio"), "it is not built"), gro=True)
    assert tuning.info() == EngineInfo(name="asyncio", workers=0, spin_us=None, gro=True, fallback="it is not built")
    with pytest.raises(VethError, match=words) as caught:
        tuning.change(EngineChange(**own, gro=False))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert tuning.info().gro is True


def test_only_pairs_that_differ_are_touched() -> None:
    """A change of the spin touches none; one of gro those that do not say."""
    entries = {str(gro): entry(gro=gro) for gro in (None, True, False)}
    touched: list[PairSpec] = []
    for one in entries.values():
        one.live = SimpleNamespace(tune=touched.append)  # type: ignore[assignment]
    entries["waits"] = entry()
    events: list[str] = []
    hub = SimpleNamespace(tell=lambda _, detail: events.append(detail))
    manager: Any = SimpleNamespace(tuning=Tuning(Picked(Spinner()), gro=True), entries=entries, hub=hub)
    Manager.change_engine(manager, EngineChange(spin_us=0, gro=True))
    assert (touched, events) == ([], ["spin_us 0"])
    Manager.change_engine(manager, EngineChange(gro=False))
    assert (touched, events[1:]) == ([entries["None"].spec], ["gro off"])


# --- what a pair says is kept


def entry(**own: Any) -> Entry:
    return Entry("p1", msgspec.structs.replace(SPEC, **own), "runtime")


@pytest.mark.parametrize("before", [True, False, None])
@pytest.mark.parametrize(
    ("change", "after"), [({}, "before"), ({"gro": True}, True), ({"gro": False}, False), ({"gro": "default"}, None)]
)
def test_a_change_is_written_into_the_spec(before: bool | None, change: dict[str, Any], after: Any) -> None:
    spec = merged(entry(gro=before, rx_checksum="trust"), PairChange(**change), LINKS)
    assert spec.gro is (before if after == "before" else after)
    assert spec.rx_checksum == "trust"
    spec = merged(entry(gro=before), PairChange(rx_checksum="trust", mtu=1400), LINKS)
    assert (spec.gro, spec.rx_checksum, spec.mtu) == (before, "trust", 1400)
    assert merged(entry(latency_queue=True), PairChange(**change), LINKS).latency_queue is True


def test_a_record_holds_it_and_one_without_it_is_read() -> None:
    end = EndRecord(
        fds=["t1"],
        alias="",
        altname="",
        own_alias=False,
        drops=[0] * DROPS,
        write_errors={},
        kernel_drops=KernelDrops(),
    )
    specs = [SPEC, msgspec.structs.replace(SPEC, gro=False)]
    records = [encode_pair(PairRecord(id=f"p{n}", spec=spec, ends=(end, end))) for n, spec in enumerate(specs)]
    assert b"gro" not in bytes(records[0]).replace(b"gro_max_size", b"")  # what was written before gro was known
    assert [pair.spec for pair in decode(encode(1, 1, 1, records)).pairs] == specs


# --- engines by name


@pytest.fixture
def loop() -> Any:
    loop = asyncio.SelectorEventLoop()
    yield loop
    loop.close()


def test_engines_by_name(loop: asyncio.AbstractEventLoop) -> None:
    asyncio_engine = pick_engine(Asked("asyncio"), loop).engine
    assert asyncio_engine.name == "asyncio"
    assert not isinstance(asyncio_engine, ThreadedEngine)
    with pytest.raises(ValueError, match="unknown engine 'warp': expected one of auto, native, asyncio"):
        pick_engine(Asked("warp"), loop)


@pytest.mark.parametrize("name", ["auto", "native", "uring", "asyncio"])
@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"workers": -1}, "workers -1"),
        ({"workers": 65}, "workers 65"),
        ({"spin_us": -1}, "spin_us -1"),
        ({"spin_us": 1001}, "spin_us 1001 .* 0..1000"),
        ({"moderation_us": 1001}, "moderation_us 1001 .* 0..1000"),
    ],
)
def test_figures_out_of_range(loop: asyncio.AbstractEventLoop, name: str, own: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pick_engine(Asked(name)._replace(**own), loop)


@pytest.mark.parametrize("name", ["native", "uring"])
def test_native_that_cannot_run(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Asked for by either name, it is refused with the reason; auto falls back, and keeps it."""
    monkeypatch.setattr(engines, "_native", lambda *_: "it is not built")
    with pytest.raises(VethError, match="engine native: it is not built") as caught:
        pick_engine(Asked(name), loop)
    assert caught.value.errno == errno.EOPNOTSUPP
    picked = pick_engine(Asked(), loop)
    assert (picked.engine.name, picked.fallback) == ("asyncio", "it is not built")


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (64, 32)])
def test_native_that_can(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int
) -> None:
    made: list[Asked] = []

    def native(asked: Asked, _loop: asyncio.AbstractEventLoop) -> Spinner:
        made.append(asked)
        return Spinner(asked.spin_us, asked.moderation_us)

    monkeypatch.setattr(engines, "_native", native)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cpus)))
    for name in ("auto", "native", "uring"):
        picked = pick_engine(Asked(name), loop)
        assert (picked.engine.name, picked.fallback) == ("native", "")
        assert isinstance(picked.engine, ThreadedEngine)
    pick_engine(Asked("native", 7, 20, 30), loop)
    assert made == [
        Asked("auto", workers),
        Asked("native", workers),
        Asked("native", workers),
        Asked("native", 7, 20, 30),
    ]


@pytest.mark.parametrize(("name", "workers", "kept"), [("uring", 2, True), ("auto", 2, True), ("native", 1, False)])
def test_a_running_engine_is_kept(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, name: str, workers: int, kept: bool
) -> None:
    """If it is the one that is asked for, by whatever name; it takes the times."""
    running, other = Spinner(), Spinner()
    running.attach = lambda _loop: None  # type: ignore[method-assign]
    monkeypatch.setattr(engines, "_native", lambda *_: other)
    picked = engines.keep_or_pick(running, Asked(name, workers, 7, 30), loop)
    assert (picked.engine is running) == kept
    assert (running.spin_us, running.moderation_us) == ((7, 30) if kept else (50, 50))
