"""All benchmarks, one after the other."""

from tests.benchmarks import creation, latency, scale, throughput
from tests.benchmarks.common import main

main(throughput.BENCHMARK, creation.BENCHMARK, latency.BENCHMARK, scale.BENCHMARK)
