"""What Prometheus reads at `/metrics`. No label holds anything that came with a film."""

from typing import Any, Final

import chexjax

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The figures of one service, in a registry of its own."""

    def __init__(self, largest_batch: int) -> None:
        import prometheus_client as prometheus

        self._registry = registry = prometheus.CollectorRegistry()
        self._write = prometheus.generate_latest
        self.content_type: str = prometheus.CONTENT_TYPE_LATEST
        self.under_way = prometheus.Gauge("chexjax_requests_under_way", "Requests admitted.", registry=registry)
        self._ready = prometheus.Gauge("chexjax_ready", "1 if films are taken.", registry=registry)
        self._requests = prometheus.Counter(
            "chexjax_requests", "HTTP requests answered.", ["route", "status"], registry=registry
        )
        self._seconds = prometheus.Histogram(
            "chexjax_request_seconds", "From a request's head to its answer.", ["route"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._films = prometheus.Counter(
            "chexjax_films", "Films by where they came in, and what became of them.", ["door", "status"],
            registry=registry,
        )  # fmt: skip
        self._batches = prometheus.Histogram(
            "chexjax_batch_films", "Films of a batch.", buckets=[2**k for k in range(largest_batch.bit_length() + 1)],
            registry=registry,
        )  # fmt: skip
        self._device = prometheus.Histogram(
            "chexjax_batch_seconds", "A batch on the device.", buckets=_SECONDS, registry=registry
        )
        self._deliveries = prometheus.Counter(
            "chexjax_deliveries", "DICOM results sent on, by film.", ["target", "outcome"], registry=registry
        )
        about = prometheus.Gauge("chexjax_info", "Its version.", ["version"], registry=registry)
        about.labels(chexjax.__version__).set(1)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """`route` is one of ours, never a path as it came."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def observe_batch(self, films: int, seconds: float) -> None:
        self._batches.observe(films)
        self._device.observe(seconds)

    def count_film(self, door: str, status: str) -> None:
        self._films.labels(door, status).inc()

    def count_delivery(self, target: str, outcome: str) -> None:
        self._deliveries.labels(target, outcome).inc()

    def text(self, is_ready: bool) -> bytes:
        """All of them, in Prometheus's text form."""
        self._ready.set(is_ready)
        written: Any = self._write(self._registry)
        return written
