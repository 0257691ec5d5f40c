"""`verify`: two models, the same images, one verdict. The work is the parity room's."""

from __future__ import annotations

from ttl_deploy.parity.verify import verify

__all__ = ["verify"]
