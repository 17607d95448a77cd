"""The benchmarks beside the contest."""

from __future__ import annotations

from tests.benchmarks import creation, latency, scale

EXTRAS = (creation.EXTRA, latency.EXTRA, scale.EXTRA)
