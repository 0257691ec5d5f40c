"""`last.ckpt` and `best.safetensors`: written whole or not at all, read without unpickling.

After a kill at any moment, the pair describes one finished epoch.
"""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ttl_deploy import files
from ttl_deploy.errors import IntegrityError, WeightsError
from ttl_deploy.training.run import BEST, LAST
from ttl_deploy.transfer import TransferModel
from ttl_deploy.transfer.initialise import finite

_LENGTH_BYTES = 8
_ALIGNMENT = 8
"""Of a safetensors header, whose end is where the numbers begin (format specification)."""


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: Epochs finished.
        best_epoch: The epoch with the best validation AUPRC, from 1.
        best_auprc: That AUPRC.
        seconds: Time trained, over all resumes.
        stopped: Why training ended, or None.
        weights: What became of the starting weights, in words.
        history: One row per epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_auprc: float = float("-inf")
    seconds: float = 0.0
    stopped: str | None = None
    weights: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)


def save_last(folder: Path, progress: Progress, states: dict[str, Any]) -> None:
    """Writes `last.ckpt` atomically; `states` holds the state dicts of model, optimizer, scheduler and precision."""
    buffer = io.BytesIO()
    # Through memory, because PyTorch's own writer hides why the disk refused.
    torch.save({"progress": asdict(progress), **states}, buffer)
    files.write_bytes(folder / LAST, buffer.getbuffer())


def load_last(folder: Path) -> tuple[Progress, dict[str, Any]] | None:
    """Reads `last.ckpt`; None where no epoch was finished.

    Raises:
        IntegrityError: It is damaged, or holds weights that are not finite numbers.
    """
    path = folder / LAST
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        finite(content["model"], path)
        return Progress(**content.pop("progress")), content
    except (WeightsError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        what = error.what if isinstance(error, WeightsError) else "is damaged"
        raise IntegrityError(what, where=path, fix="start the run again with --overwrite") from error


def save_best(folder: Path, model: TransferModel, epoch: int) -> None:
    """Writes `best.safetensors` atomically, with the model's spec in its header."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.network_state().items()}
    header = {"epoch": str(epoch), "model": model.spec.model_dump_json(), "program": "ttl-deploy"}
    files.write_bytes(folder / BEST, in_order(save(tensors, metadata=header)))


def in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted by key: safetensors writes them in random order.

    Bit-equal weights then have equal hashes. Tensors keep their order and their place.

    Args:
        content: A file: the header's length in 8 bytes, the header in JSON padded with spaces, the numbers.
    """
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES:start])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + content[start:]


def best_epoch(folder: Path) -> int:
    """The epoch that `best.safetensors` is of; 0 where there is none."""
    path = folder / BEST
    if not path.exists():
        return 0
    with path.open("rb") as handle:
        header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    return int(header.get("__metadata__", {}).get("epoch", 0))


def load_best(folder: Path, model: TransferModel) -> None:
    """Loads `best.safetensors` into a model of the same spec.

    Raises:
        IntegrityError: It is damaged, or holds weights that are not finite numbers.
    """
    path = folder / BEST
    try:
        model.load_network_state(finite(load(path.read_bytes()), path))
    except WeightsError as error:
        raise IntegrityError(error.what, where=path, fix="train the run again") from error
    except SafetensorError as error:
        raise IntegrityError("is damaged", where=path, fix="train the run again") from error
