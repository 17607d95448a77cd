"""Histograms of times: buckets without gaps, quantiles within a quarter, and every engine counts each frame once."""

from __future__ import annotations

import importlib

from hypothesis import given
from hypothesis import strategies as st

from tests.lib.sockwire import bench, frame
from vethd.model.latency import BUCKETS, bound, bucket, longest, quantile

TIMES = st.integers(0, 1 << 31) | st.integers(0, 1 << 40)


@given(TIMES)
def test_a_time_is_in_its_bucket(ns: int) -> None:
    number = bucket(ns)
    assert 0 <= number < BUCKETS
    assert ns < bound(number) or number == BUCKETS - 1
    assert number == 0 or ns >= bound(number - 1)


def test_bounds_rise() -> None:
    bounds = [bound(number) for number in range(BUCKETS)]
    assert bounds == sorted(set(bounds))
    assert (bounds[0], bounds[3], bounds[-1]) == (320, 512, 1 << 30)


@given(TIMES)
def test_the_native_engine_has_the_same_buckets(ns: int) -> None:
    assert importlib.import_module("vethd.datapath._native").latency_bucket(ns) == bucket(ns)


@given(st.lists(st.integers(256, 1 << 29), min_size=1), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_quantiles(times: list[int], share: float) -> None:
    counts = [0] * BUCKETS
    for ns in times:
        counts[bucket(ns)] += 1
    found = quantile(counts, share)
    assert found is not None
    exact = sorted(times)[max(0, -(-len(times) * int(share * 100) // 100) - 1)]
    assert exact < found <= exact * 5 / 4 + 1
    assert longest(counts) == bound(bucket(max(times)))


def test_of_nothing() -> None:
    assert quantile([0] * BUCKETS, 0.5) is None
    assert longest([0] * BUCKETS) is None


def test_every_frame_counts_once(engine: str) -> None:
    with bench(engine=engine) as it:
        it.open()
        for number in range(100):
            it.devices[0][0].send(frame(100 if number % 2 else 1600, number))
        it.settle(100)
        latency = it.wire.latency(0)
        assert sum(latency.counts) == 100
        assert latency.total_ns > 0
        assert sum(it.wire.latency(1).counts) == 0
