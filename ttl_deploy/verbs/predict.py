"""`predict`: images become answers, here or over a cluster. The work is the prediction room's."""

from __future__ import annotations

from ttl_deploy.prediction.predict import predict

__all__ = ["predict"]
