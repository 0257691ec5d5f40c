"""Cross-entropy of the pixels, and what the soft Dice of each image lacks of 1 (Milletari 2016), together.

The paper does not name its loss for masks; this sum is the usual one.
"""

from __future__ import annotations

from torch import Tensor, nn

from ttl_deploy.tasks import Labels, Task
from ttl_deploy.training.losses import LOSSES, Loss
from ttl_deploy.training.measures.overlap import SMOOTH


class DiceCrossEntropy(nn.Module):
    """The mean over the images of a batch."""

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss of logits (N, 1, H, W) for masks (N, 1, H, W) of 0 and 1."""
        drawn = masks.to(logits.dtype).flatten(1)
        flat = logits.flatten(1)
        said = flat.sigmoid()
        entropy = nn.functional.binary_cross_entropy_with_logits(flat, drawn, reduction="none").mean(dim=1)
        soft = (2 * (said * drawn).sum(dim=1) + SMOOTH) / (said.sum(dim=1) + drawn.sum(dim=1) + SMOOTH)
        return (entropy + 1 - soft).mean()


def _make(task: Task, labels: Labels | None) -> nn.Module:
    return DiceCrossEntropy()


LOSSES.register("segmentation", Loss(_make))
