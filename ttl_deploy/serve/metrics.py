"""What a server counts, in Prometheus' text format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttl_deploy.serve.model import ServedModel

if TYPE_CHECKING:
    from collections.abc import Callable

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper ends of the latency histogram, seconds."""


class ServerMetrics:
    """Counters of one server, in a registry of their own.

    Args:
        model: What is served; its facts are in `ttl_deploy_model_info`.
        in_flight: Gives the number of requests that are being answered.
    """

    def __init__(self, model: ServedModel, in_flight: Callable[[], float]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ttl_deploy_requests",
            "Answers by endpoint and status",
            ("endpoint", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "ttl_deploy_request_seconds",
            "From the first byte to the answer",
            ("endpoint",),
            registry=self._registry,
            buckets=_BUCKETS,
        )
        Gauge("ttl_deploy_in_flight", "Requests being answered", registry=self._registry).set_function(in_flight)
        manifest = model.artifact.manifest
        Info("ttl_deploy_model", "The model that is served", registry=self._registry).info(
            {
                "name": model.name,
                "backbone": manifest.model.backbone,
                "method": manifest.model.method,
                "format": manifest.format,
                "precision": manifest.precision,
                "runtime": model.runtime,
                "sha256": manifest.files[manifest.model_file].sha256,
            }
        )
        ProcessCollector(registry=self._registry)

    def record(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts one answer."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """All metrics, and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
