"""What a server counts, for Prometheus."""

from collections.abc import Mapping, Sized

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of a server. `queues` are those of its bundles, by name."""

    def __init__(self, queues: Mapping[str, Sized]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "rpln_requests", "Requests that were answered or refused.", ["endpoint", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "rpln_request_seconds",
            "How long requests took that were answered.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "rpln_batch_items", "Items that ran together.", ["model"], buckets=_ITEMS, registry=self._registry
        )
        self._retried = Counter(
            "rpln_retried_items",
            "Items that were tried again: their process ended.",
            ["model"],
            registry=self._registry,
        )
        self._ended = Counter(
            "rpln_ended_processes",
            "Processes that ended while they had items or a stream.",
            ["model"],
            registry=self._registry,
        )
        waiting = Gauge("rpln_queue_items", "Items that wait.", ["model"], registry=self._registry)
        for name, queue in queues.items():
            for counter in (self._retried, self._ended):
                counter.labels(name)  # 0, so that a rate sees the first
            waiting.labels(name).set_function(queue.__len__)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(endpoint, str(status)).inc()
        if status == 200:
            self._seconds.labels(endpoint).observe(seconds)

    def batch(self, model: str, items: int) -> None:
        """Count a batch."""
        self._batches.labels(model).observe(items)

    def ended(self, model: str, items: int) -> None:
        """Count a process that ended, and its items that are tried again."""
        self._ended.labels(model).inc()
        self._retried.labels(model).inc(items)

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)
