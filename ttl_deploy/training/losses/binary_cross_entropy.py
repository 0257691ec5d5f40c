"""Binary cross-entropy of labels that an image has or has not, over those that are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ttl_deploy.tasks import UNKNOWN, Labels, Task
from ttl_deploy.training.losses import LOSSES, Loss


class MaskedBinaryCrossEntropy(nn.Module):
    """The mean over the known labels of a batch.

    Args:
        weight: (K,) by which a yes counts more than a no; None: the same.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits (N, K) for labels (N, K) of 1, 0 and `UNKNOWN`; 0 where none is known."""
        known = labels != UNKNOWN
        # An unknown label has a target too, of which nothing is left: a sum over a mask alone would need its shape.
        each = nn.functional.binary_cross_entropy_with_logits(
            logits, labels.clamp(min=0).to(logits.dtype), pos_weight=self.weight, reduction="none"
        )
        return (each * known).sum() / known.sum().clamp(min=1)


def _make(task: Task, labels: Labels | None) -> nn.Module:
    """A yes counts by the ratio of no to yes where labels are given, so that both weigh the same."""
    if labels is None:
        return MaskedBinaryCrossEntropy()
    truth = task.truth(labels)
    yes, no = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    return MaskedBinaryCrossEntropy(torch.tensor(no.clip(min=1) / yes.clip(min=1), dtype=torch.float32))


LOSSES.register("multilabel", Loss(_make, "pos_weight"))
