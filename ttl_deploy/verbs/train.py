"""`train`: data and a cut become a run; `resume`: an interrupted one goes on. The work is the training room's."""

from __future__ import annotations

from ttl_deploy.training.train import resume, train

__all__ = ["resume", "train"]
