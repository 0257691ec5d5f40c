"""Starting weights of candidate k + 1 from the trained candidate k: its layers as trained, what is above as before."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from ttl_deploy import files
from ttl_deploy.training.run import Run
from ttl_deploy.transfer.initialise import read_weights
from ttl_deploy.transfer.model import HEAD
from ttl_deploy.zoo import BACKBONES


def continued_weights(run: Run, base: str, path: Path) -> str:
    """Writes a network's weights in which a run's layers replace the base's.

    The head is left out: a cut elsewhere has other channels.

    Args:
        run: Trained, cut lower.
        base: Its own starting weights: `imagenet`, `random` or a path.
        path: File to write.

    Returns:
        The path, for `Network.weights`.
    """
    backbone = BACKBONES.get(run.config.model.backbone)
    state = {}
    if base != "random":
        state = dict(backbone.upgrade(backbone.pretrained() if base == "imagenet" else read_weights(Path(base))))
    trained = {name: tensor for name, tensor in read_weights(run.folder).items() if not name.startswith(f"{HEAD}.")}
    merged = {name: tensor.contiguous() for name, tensor in {**state, **trained}.items()}
    files.write_bytes(path, save(merged))
    return str(path)
