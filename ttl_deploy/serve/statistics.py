"""What a model has done since the server started, as Triton's statistics extension tells it."""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

Kind = Literal["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"]

_KINDS: tuple[Kind, ...] = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


class Statistics:
    """Counts and cumulated times; several threads may record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Kind, int] = dict.fromkeys(_KINDS, 0)
        self._seconds: dict[Kind, float] = dict.fromkeys(_KINDS, 0.0)
        self._images = 0
        self._last_ms = 0

    def record(self, kind: Kind, seconds: float) -> None:
        """Adds one duration.

        Args:
            kind: `success` or `fail` of a whole request, or the part of it that took the time.
            seconds: How long it took.
        """
        with self._lock:
            self._counts[kind] += 1
            self._seconds[kind] += seconds

    def record_run(self, images: int, seconds: float) -> None:
        """Adds one run of the engine."""
        self.record("compute_infer", seconds)
        with self._lock:
            self._images += images
            self._last_ms = round(1000 * time.time())

    def as_dict(self) -> dict[str, Any]:
        """The fields that the extension names, times in nanoseconds; `last_inference` in milliseconds since 1970."""
        with self._lock:
            return {
                "last_inference": self._last_ms,
                "inference_count": self._images,
                "execution_count": self._counts["compute_infer"],
                "inference_stats": {
                    kind: {"count": self._counts[kind], "ns": round(1e9 * self._seconds[kind])} for kind in _KINDS
                },
                "batch_stats": [],
            }
