"""Cross-entropy of exclusive classes (the paper's loss), grades among them."""

from __future__ import annotations

import torch
from torch import nn

from ttl_deploy.tasks import Labels, Task
from ttl_deploy.training.losses import LOSSES, Loss


def _cross_entropy(task: Task, labels: Labels | None) -> nn.Module:
    """Weighed by inverse class frequency, n / (K n_k), where labels are given."""
    if labels is None:
        return nn.CrossEntropyLoss()
    counts = task.members(labels).sum(axis=0)
    return nn.CrossEntropyLoss(weight=torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32))


for _kind in ("multiclass", "ordinal"):
    LOSSES.register(_kind, Loss(_cross_entropy, "class_weights"))
