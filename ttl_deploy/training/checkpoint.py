"""`last.ckpt` and `best.safetensors`: written whole or not at all, read without unpickling.

After a kill at any moment, the pair describes one finished epoch.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import save
from torch import Tensor

from ttl_deploy import files
from ttl_deploy.errors import BadInputError, DamagedError, WeightsError
from ttl_deploy.training.run import BEST, LAST, EpochRow
from ttl_deploy.transfer import TransferModel
from ttl_deploy.transfer.weights_file import finite, read_metadata, read_safetensors, read_torch

STATES = ("model", "optimizer", "scheduler", "precision")
"""Whose state dicts `last.ckpt` holds beside the progress."""

_EARLIER = "best_auprc"
"""What earlier versions called `Progress.best_value`."""

_LENGTH_BYTES = 8
_ALIGNMENT = 8
"""Of a safetensors header, whose end is where the numbers begin (format specification)."""


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: Epochs finished.
        best_epoch: The epoch with the best value of the metric that selects, from 1.
        best_value: That value.
        seconds: Time trained, over all resumes.
        stopped: Why training ended, or None.
        weights: What became of the starting weights, in words.
        start_sha256: SHA-256 of the starting weights, see `LoadReport`; None where they are random, and in checkpoints
            of earlier versions.
        history: One row per epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_value: float = float("-inf")
    seconds: float = 0.0
    stopped: str | None = None
    weights: str = ""
    start_sha256: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


_PROGRESS = TypeAdapter(Progress)


def last_content(progress: Progress, states: dict[str, Any]) -> memoryview:
    """What `last.ckpt` holds; `states` are the state dicts of model, optimizer, scheduler and precision."""
    buffer = io.BytesIO()
    # Through memory, because PyTorch's own writer hides why the disk refused.
    torch.save({"progress": asdict(progress), **states}, buffer)
    return buffer.getbuffer()


def load_last(folder: Path) -> tuple[Progress, dict[str, Any]] | None:
    """Reads `last.ckpt`; None where no epoch was finished.

    Returns:
        How far the training is, and the state dicts of `last_content`; what is in these is for `taken_up` to check.

    Raises:
        DamagedError: It is damaged, or holds weights that are not finite numbers.
    """
    path = folder / LAST
    if not path.exists() and not path.is_symlink():
        return None
    with taking_up(path):
        content = dict(read_torch(path))
        finite(content["model"], path)
        found = dict(content.pop("progress"))
        if _EARLIER in found:
            found["best_value"] = found.pop(_EARLIER)
        progress = _PROGRESS.validate_python(found)
        _refuse_contradictions(progress)
        return progress, {name: content[name] for name in STATES}


@contextmanager
def taking_up(path: Path) -> Iterator[None]:
    """Whatever a checkpoint of another form makes PyTorch raise becomes one error that names it.

    Raises:
        DamagedError: The checkpoint is damaged or of another training.
    """
    fix = "start the run again with --overwrite"
    try:
        yield
    except DamagedError:
        raise
    except WeightsError as error:
        what = "is damaged" if error.what.startswith("is damaged") else error.what
        raise DamagedError(what, where=path, fix=fix) from error
    except Exception as error:
        raise DamagedError("is damaged, or of another training", where=path, fix=fix) from error


def refuse_other_form(now: Any, before: Any) -> None:
    """Raises `ValueError` where a state that was read is not of the form of the one that it replaces.

    Keys that only one of them has are another version's; a tensor's shape and type, and every value's type, are the
    same.
    """
    if isinstance(now, Mapping):
        for key in now.keys() & dict(before).keys():
            refuse_other_form(now[key], before[key])
    elif isinstance(now, list | tuple):
        for one, other in zip(now, before, strict=True):
            refuse_other_form(one, other)
    elif isinstance(now, Tensor):
        if (now.shape, now.dtype) != (before.shape, before.dtype) or not bool(torch.isfinite(before).all()):
            raise ValueError("a tensor of another form")
    elif not _alike(now, before):
        raise ValueError(f"{before!r:.80} in place of {now!r:.80}")


def refuse_other_moments(parameter: Tensor, state: Mapping[str, Any], names: Sequence[str], counts: bool) -> None:
    """Raises an error of any kind where an optimizer's state of a parameter is not one.

    Args:
        parameter: The parameter.
        state: What was read.
        names: Of the tensors in it that have the parameter's shape.
        counts: Whether it counts steps.
    """
    for name in names:
        if state[name].shape != parameter.shape or not bool(torch.isfinite(state[name]).all()):
            raise ValueError(f"{name} of another form")
    if counts and not 0 < float(state["step"]) < math.inf:
        raise ValueError("a step that is no number")


def written_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the history as it is written: what is no finite number of the validation side is None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _alike(now: Any, before: Any) -> bool:
    """None may stand for a value that another version or device sets."""
    if now is None or before is None:
        return True
    if isinstance(now, bool) or isinstance(before, bool):
        return type(now) is type(before)
    if isinstance(now, int | float) and isinstance(before, int | float):
        return not math.isnan(before)
    return type(now) is type(before)


def _refuse_contradictions(progress: Progress) -> None:
    rows = [EpochRow.model_validate(written_row(row)) for row in progress.history]
    counted = [row.epoch for row in rows] == list(range(1, progress.epoch + 1))
    if not counted or not 1 <= progress.best_epoch <= progress.epoch or not math.isfinite(progress.seconds):
        raise ValueError("its epochs contradict each other")


def best_content(model: TransferModel, epoch: int) -> bytes:
    """What `best.safetensors` holds, with the model's spec in its header."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.network_state().items()}
    header = {"epoch": str(epoch), "model": model.spec.model_dump_json(), "program": "ttl-deploy"}
    return in_order(save(tensors, metadata=header))


def save_best(folder: Path, model: TransferModel, epoch: int) -> None:
    """Writes `best.safetensors` atomically."""
    files.write_bytes(folder / BEST, best_content(model, epoch))


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
    """The epoch that `best.safetensors` is of; 0 where there is none.

    Raises:
        DamagedError: It is damaged.
    """
    path = folder / BEST
    if not path.exists() and not path.is_symlink():
        return 0
    with _of_a_run(path):
        epoch = read_metadata(path).get("epoch", "0")
        if not re.fullmatch(r"\d{1,9}", epoch):
            raise WeightsError(f"is of the epoch {epoch!r:.80}", where=path)
        return int(epoch)


def load_best(folder: Path, model: TransferModel) -> None:
    """Loads `best.safetensors` into a model of the same spec.

    Raises:
        DamagedError: It is missing or damaged, of another model, or holds weights that are not finite numbers.
    """
    path = folder / BEST
    with _of_a_run(path):
        model.load_network_state(read_safetensors(path)[0])


def refuse_other_best(folder: Path, model: TransferModel, epoch: int) -> None:
    """Raises `DamagedError` unless `best.safetensors` holds the weights of an epoch of this model."""
    path = folder / BEST
    with _of_a_run(path):
        found = best_epoch(folder)
        if found != epoch:
            raise WeightsError(f"is of epoch {found}, the best is {epoch}", where=path)
        model.refuse_other_state(read_safetensors(path)[0])


@contextmanager
def _of_a_run(path: Path) -> Iterator[None]:
    try:
        yield
    except DamagedError:
        raise
    except BadInputError as error:
        what = "is damaged" if error.what.startswith("is damaged") else error.what
        raise DamagedError(what, where=path, fix="restore it, or train the run again") from error
