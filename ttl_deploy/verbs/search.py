"""`search`: the cheapest cut that is as accurate. The work is the room of the search's."""

from __future__ import annotations

from ttl_deploy.cut_search.search import search

__all__ = ["search"]
