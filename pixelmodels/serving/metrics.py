"""The page that Prometheus reads: what this ingress counted, and the figures of every sampler."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_FIGURES = {  # of every sampler
    "waiting_images": (GaugeMetricFamily, "images that have no slot yet"),
    "unfinished_images": (GaugeMetricFamily, "images that were let in, to be drawn or scored, and are not finished"),
    "unfinished_requests": (GaugeMetricFamily, "requests that were let in and are not finished"),
    "images_per_second": (GaugeMetricFamily, "measured speed of the default model with the slots taken; 0 until it is known"),
    "loaded_models": (GaugeMetricFamily, "versions that are held"),
    "images_drawn": (CounterMetricFamily, "images drawn"),
}
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counts of one process."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("pixelmodels_http_requests", "answered requests", ["route", "status"], registry=self._registry)
        self._seconds = Histogram(
            "pixelmodels_http_request_seconds", "seconds to the end of the answer", ["route"], buckets=_BUCKETS, registry=self._registry
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def page(self, states: list[dict[str, Any]], num_retries: int) -> bytes:
        """The whole page."""
        samplers: Any = SimpleNamespace(collect=lambda: _of_samplers(states, num_retries))
        return bytes(generate_latest(self._registry)) + bytes(generate_latest(samplers))


def _of_samplers(states: list[dict[str, Any]], num_retries: int) -> Iterator[Metric]:
    """The samplers' figures, as they are at the moment."""
    yield GaugeMetricFamily("pixelmodels_samplers", "samplers that answer", value=len(states))
    yield CounterMetricFamily("pixelmodels_retries", "requests given to another sampler", value=num_retries)
    for name, (family_of, text) in _FIGURES.items():
        family = family_of(f"pixelmodels_{name}", text, labels=["replica"])
        for state in states:
            family.add_metric([state["replica"]], float(state[name]))
        yield family
