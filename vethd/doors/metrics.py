"""The Prometheus metrics: prefix vethd_, base units, _total on counters.

The only labels of a link are link and netns, so that there are few series; vethd_link_info has its other properties.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vethd import __version__
from vethd.doors.routing import Api
from vethd.model.api import LinkInfo, LinkStats
from vethd.model.insight import LinkLatency
from vethd.model.latency import BUCKETS, PARTS

CONTENT_TYPE = CONTENT_TYPE_LATEST

_LABELS = ("link", "netns")
_LATENCY_BUCKETS = range(PARTS - 1, BUCKETS - PARTS, 2 * PARTS)  # from 512 ns on, each four times the one before
_COUNTERS = (
    ("receive_packets", "Frames received", "rx_packets"),
    ("receive_bytes", "Bytes received, including Ethernet headers", "rx_bytes"),
    ("transmit_packets", "Frames sent", "tx_packets"),
    ("transmit_bytes", "Bytes sent, including Ethernet headers", "tx_bytes"),
    ("read_packets", "Frames sent by the link that the engine read", "read"),
    ("forwarded_packets", "Frames sent by the link that the engine wrote to its peer", "forwarded"),
    ("carrier_changes", "Carrier changes", "carrier_changes"),
)


def exposition(
    links: Sequence[LinkInfo], stats: Sequence[LinkStats], latencies: Sequence[LinkLatency], api: Api
) -> bytes:
    """Return the text of the response to GET /metrics."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(links, stats, latencies, api))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(
        self, links: Sequence[LinkInfo], stats: Sequence[LinkStats], latencies: Sequence[LinkLatency], api: Api
    ) -> None:
        self._links = links
        self._stats = stats
        self._latencies = latencies
        self._api = api

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        manager = self._api.manager
        entries = manager.entries.values()
        yield _gauge("vethd_pairs", "Living pairs", sum(1 for entry in entries if entry.live))
        yield _gauge("vethd_pairs_waiting", "Declared pairs that cannot be made now", sum(not e.live for e in entries))
        build = InfoMetricFamily("vethd_build", "The daemon")
        engine = manager.tuning.info()
        build.add_metric((), {"version": __version__, "engine": engine.name})
        yield build
        yield _gauge("vethd_engine_workers", "Forwarding threads; 0 if the daemon's loop forwards", engine.workers)
        if engine.spin_us is not None:
            text = "Time that a worker polls for the next frame before it sleeps"
            yield _gauge("vethd_engine_spin_seconds", text, engine.spin_us / 1e6)
        if engine.moderation_us is not None:
            text = "Longest pause of a worker in bulk transfers"
            yield _gauge("vethd_engine_moderation_seconds", text, engine.moderation_us / 1e6)
        for name, text, key in _COUNTERS:
            family = CounterMetricFamily(f"vethd_link_{name}", text, labels=_LABELS)
            for link in self._stats:
                family.add_metric((link.name, link.netns), getattr(link, key))
            yield family
        yield from self._drops()
        yield self._latency()
        yield from self._gauges()

    def _drops(self) -> Iterable[Metric]:
        text = "Frames that the link sent and its peer did not receive, by reason; kernel_*: vethd never read them"
        family = CounterMetricFamily("vethd_link_drops", text, labels=(*_LABELS, "reason"))
        for link in self._stats:
            for reason, count in link.drops.items():
                family.add_metric((link.name, link.netns, reason), count)
        yield family

    def _latency(self) -> Metric:
        text = "Time that frames sent by the link were in vethd"
        family = HistogramMetricFamily("vethd_link_latency_seconds", text, labels=_LABELS)
        for link in self._latencies:
            buckets = [(str(link.bounds_ns[last] / 1e9), sum(link.counts[: last + 1])) for last in _LATENCY_BUCKETS]
            buckets.append(("+Inf", sum(link.counts)))
            family.add_metric((link.name, link.netns), buckets, link.total_ns / 1e9)
        return family

    def _gauges(self) -> Iterable[Metric]:
        carrier = GaugeMetricFamily("vethd_link_carrier", "1 with carrier, 0 without", labels=_LABELS)
        mtu = GaugeMetricFamily("vethd_link_mtu_bytes", "MTU", labels=_LABELS)
        about = InfoMetricFamily("vethd_link", "Properties of a link", labels=_LABELS)
        for link in self._links:
            labels = (link.name, link.netns)
            carrier.add_metric(labels, int(link.carrier))
            mtu.add_metric(labels, link.mtu)
            ours = {"peer": link.peer_name, "peer_netns": link.peer_netns, "pair": link.pair}
            about.add_metric(labels, {**ours, "ifindex": str(link.ifindex), "address": link.address})
        yield carrier
        yield mtu
        yield about


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
