"""`export`: a run becomes an artifact that was compared with it. The work is the room of the formats'."""

from __future__ import annotations

from ttl_deploy.formats.export_run import export_run as export

__all__ = ["export"]
