"""What the server counts, in Prometheus' text format at /metrics.

metrics = Metrics(queue_length=lambda: queue.held)
metrics.request("/segment", 200, seconds=0.12)
metrics.text()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """A registry of its own: several servers of one process do not count together."""

    def __init__(self, queue_length: Callable[[], int], body_bytes: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "mask2edge_requests", "Answers, by path and HTTP status", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "mask2edge_request_seconds",
            "From a request's head to the end of its answer",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._steps = Histogram(
            "mask2edge_step_seconds", "Steps of one image", ["step"], buckets=SECONDS, registry=self._registry
        )
        gauges = {
            "mask2edge_queue_length": ("Images at work or in line", queue_length),
            "mask2edge_body_bytes": ("Bytes of request bodies in memory", body_bytes),
        }
        for name, (about, read) in gauges.items():
            Gauge(name, about, registry=self._registry).set_function(read)

    def request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def steps(self, times: Mapping[str, float]) -> None:
        """`times`: milliseconds by name, decode_ms and so on."""
        for step, milliseconds in times.items():
            self._steps.labels(step.removesuffix("_ms")).observe(milliseconds / 1000)

    def text(self) -> bytes:
        return generate_latest(self._registry)
