"""The training loop; by default the paper's protocol (appendix A.1): Adam, the rate halved when validation stagnates.

Validation is by what the protocol monitors, by default the metric that the task selects by: AUPRC as in the paper, of
grades the quadratic kappa.

An epoch is the unit of durability: everything a later epoch needs is in `last.ckpt`, so a killed run goes on as if
nothing had happened. It is written while the next epoch is trained, and whole before that one's is begun.

A limit of minutes is judged at every batch, of training and of validation, and the epoch in which it falls is dropped:
the run is the one that the epochs before it give, bit for bit. Where not even one epoch fits, what was learnt until
then is validated and evaluated, but no checkpoint is written: a resumed run starts at the first epoch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from ttl_deploy import files
from ttl_deploy.data.prepared import Prepared
from ttl_deploy.data.torch_data import ImageBatches, evaluation_loader, mix_seeds, training_loader
from ttl_deploy.errors import TrainingError
from ttl_deploy.progress import Reporter
from ttl_deploy.spec import TrainConfig
from ttl_deploy.tasks import Task
from ttl_deploy.training.beside import Beside
from ttl_deploy.training.cached import UpperPart, cached_batches
from ttl_deploy.training.checkpoint import (
    Progress,
    best_content,
    last_content,
    load_last,
    refuse_other_best,
    refuse_other_form,
    refuse_other_moments,
    save_best,
    taking_up,
    written_row,
)
from ttl_deploy.training.depthwise import FloatDepthwiseGradients
from ttl_deploy.training.logs import Logs
from ttl_deploy.training.losses import plain_loss, training_loss
from ttl_deploy.training.measures import Rows, measure_of
from ttl_deploy.training.metrics import TITLES
from ttl_deploy.training.monitor import LOSS
from ttl_deploy.training.optimizers import OPTIMIZERS
from ttl_deploy.training.pace import Pace, drop_before_last, drop_unit_gradients, hold_units
from ttl_deploy.training.run import BEST, HISTORY, LAST, TIMING, still_there
from ttl_deploy.training.schedules import SCHEDULES, Better
from ttl_deploy.transfer import TransferModel
from ttl_deploy.transfer.initialise import RANDOM, LoadReport, started_anew
from ttl_deploy.zoo import BACKBONES

Judge = Callable[[Sequence[dict[str, Any]]], str | None]
"""Looks at the rows of `history.jsonl` after every epoch and says why training shall end, or None."""


class _TimeUp(Exception):
    """The minutes are used up within an epoch."""


@dataclass
class _State:
    """The objects that training moves."""

    fabric: Fabric
    module: TransferModel
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    raw_optimizer: torch.optim.Optimizer
    scheduler: Any
    loss: nn.Module
    derived: AbstractContextManager[object]


class Trainer:
    """Trains one model into one run folder.

    Args:
        fabric: Device, precision and processes.
        config: The protocol.
        prepared: The images.
        model: With its starting weights.
        folder: The run's folder; exists.
        weights: What became of the starting weights.
        reporter: Told of every epoch.
        judge: May end the training early.
        logs: Told of every epoch that is kept.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: TrainConfig,
        prepared: Prepared,
        model: TransferModel,
        folder: Path,
        weights: LoadReport | None,
        reporter: Reporter,
        judge: Judge | None = None,
        logs: Logs | None = None,
    ) -> None:
        self._config = config
        self._logs = logs
        self._judge = judge
        self._folder = folder
        self._reporter = reporter
        train, val = (prepared.inputs(prepared.indices(side)) for side in ("train", "val"))
        self._train = ImageBatches(prepared, train, config.preprocess, config.augment, mix_seeds(config.seed, 1))
        self._val = ImageBatches(prepared, val, config.preprocess)
        self._task = prepared.task
        self._val_labels = prepared.labels[prepared.indices("val")]
        self._val_counts = prepared.counts(prepared.indices("val"))
        self._watched = config.schedule.monitor or self._task.SELECTS
        loss = training_loss(prepared.task, config, prepared.input_labels(train))
        self._state = _set_up(fabric, config, model, loss, "min" if self._watched == LOSS else "max")
        if config.cache_features:
            sides = {
                "train": (self._train, prepared.labels[prepared.indices("train")]),
                "val": (self._val, self._val_labels),
            }
            cached = cached_batches(fabric, config, model, folder, sides, reporter)
            self._train, self._val = cached["train"], cached["val"]
        self._progress = Progress()
        if weights is not None:
            self._progress = Progress(weights=str(weights), start_sha256=weights.sha256)
        self._beside = Beside()
        self._limit = math.inf if config.max_minutes is None else 60 * config.max_minutes
        self._started = time.monotonic()

    def resume(self) -> None:
        """Takes up the folder's last finished epoch, if there is one.

        Raises:
            IntegrityError: The checkpoint is damaged.
        """
        found = load_last(self._folder)
        if found is None:
            return
        self._progress, states = found
        with taking_up(self._folder / LAST):
            self._take_up(states)
        # A kill between the two files leaves best.safetensors one improvement behind.
        if self._progress.best_epoch == self._progress.epoch:
            self._save_best()
        else:
            refuse_other_best(self._folder, self._state.module, self._progress.best_epoch)
        self._write_history()
        self._log(self._rows())
        self._reporter.info(f"resumed after epoch {self._progress.epoch}")
        self._started = time.monotonic() - self._progress.seconds

    def _take_up(self, states: dict[str, Any]) -> None:
        """Raises whatever PyTorch raises where a state is of another form."""
        state = self._state
        state.module.load_state_dict(states["model"])
        optimizer, parameters = state.raw_optimizer, {}
        refuse_other_form(optimizer.state_dict()["param_groups"], states["optimizer"]["param_groups"])
        optimizer.load_state_dict(states["optimizer"])
        for group in optimizer.param_groups:
            parameters.update({id(parameter): parameter for parameter in group["params"]})
        kind, spec = OPTIMIZERS.get(self._config.optim.name), self._config.optim
        for parameter, moments in optimizer.state.items():
            refuse_other_moments(parameters[id(parameter)], moments, kind.moments(spec), kind.counts)
        refuse_other_form(state.scheduler.state_dict(), states["scheduler"])
        state.scheduler.load_state_dict(states["scheduler"])
        state.fabric.strategy.precision.load_state_dict(states["precision"])

    def run(self) -> Progress:
        """Trains until the rate is too small, the epochs or the minutes are used up.

        Raises:
            TrainingError: The loss is not a number.
            StorageError: The disk is full; the last finished epoch is intact.
        """
        self._progress.stopped = self._reason_to_stop()
        try:
            while self._progress.stopped is None:
                self._progress.stopped = self._next_epoch()
        finally:
            self._beside.finish()
        self._reporter.info(f"training ended after epoch {self._progress.epoch}: {self._progress.stopped}")
        return self._progress

    def _next_epoch(self) -> str | None:
        """Why training ends with it, or None."""
        epoch = self._progress.epoch + 1
        try:
            self._epoch(epoch)
        except _TimeUp:
            return f"{self._minutes()}; epoch {epoch} was not finished and dropped"
        return self._progress.stopped

    def _epoch(self, epoch: int) -> None:
        begun = time.monotonic()
        torch.manual_seed(mix_seeds(self._config.seed, 2, epoch))
        rate, train_loss, cut_short = self._train_one(epoch)
        said, val_loss = self._evaluate()
        measured = measure_of(self._task).quick(self._task, self._val_labels, said)
        row = {
            "epoch": epoch,
            "learning_rate": rate,
            "train_loss": train_loss,
            "val_loss": val_loss,
            **{f"val_{name}": value for name, value in measured.items()},
        }
        if cut_short:
            self._finish_part(row, cut_short)
        else:
            self._finish_epoch(row, time.monotonic() - begun)

    def _train_one(self, epoch: int) -> tuple[float, float, str]:
        """The head's rate; the mean loss; and how far a first epoch came that the minutes ended, empty for a whole one.

        Raises:
            _TimeUp: The minutes ended a later epoch.
        """
        state, config = self._state, self._config
        loader = training_loader(
            self._train,
            config.batch_size,
            epoch=epoch,
            seed=mix_seeds(config.seed, 3),
            workers=config.workers,
            rank=state.fabric.global_rank,
            world=state.fabric.world_size,
        )
        pace = Pace(config, state.raw_optimizer, epoch, len(loader))
        state.forward.train()
        if config.head_training.freeze_first:
            hold_units(state.module, pace.alone, several=state.fabric.world_size > 1)
        total, images = 0.0, 0
        with pace, self._reporter.task(f"epoch {epoch}", len(loader)) as advance:
            for step, (batch, labels) in enumerate(loader, start=1):
                pace.at(step)
                value = self._step(batch, labels, pace.alone)
                if not math.isfinite(value):
                    raise self._not_a_number(epoch, step)
                total, images = total + value * len(labels), images + len(labels)
                advance(1, f"loss {total / images:.4f}")
                self._in_time()
                if not self._progress.epoch and step < len(loader) and self._out_of_time():
                    return pace.rate, total / images, f"after {step} of {len(loader)} batches of the first epoch"
        return pace.rate, total / images, ""

    def _step(self, batch: Tensor, labels: Tensor, alone: bool) -> float:
        state = self._state
        batch, labels = state.fabric.to_device((self._laid_out(batch), labels))
        state.optimizer.zero_grad(set_to_none=True)
        with state.derived:
            outputs = state.forward(batch).float()
        loss = state.loss(outputs, labels)
        state.fabric.backward(loss)
        if alone:
            drop_unit_gradients(state.module)
        if self._config.optim.clip is not None:
            # A gradient that is not finite is for the scaler of fp16 to skip, or shows in the loss.
            state.fabric.clip_gradients(
                state.forward, state.optimizer, max_norm=self._config.optim.clip, error_if_nonfinite=False
            )
        state.optimizer.step()
        return float(loss.detach())

    def _evaluate(self) -> tuple[Rows, float]:
        state, task = self._state, self._task
        said, _masks = predict(
            state.fabric, state.forward, self._val, self._config.batch_size, task, self._laid_out, self._in_time
        )
        said = task.gather(said, self._val_counts)
        loss = measure_of(task).loss(said)
        if loss is None:
            loss = float(plain_loss(task)(torch.from_numpy(said), torch.from_numpy(self._val_labels)))
        return said, loss

    def _finish_epoch(self, row: dict[str, Any], seconds: float) -> None:
        progress, state = self._progress, self._state
        value = self._value(row)
        improved = value > progress.best_value or not progress.best_epoch
        if improved:
            progress.best_epoch, progress.best_value = row["epoch"], value
        if row["epoch"] > self._config.head_training.freeze_first:
            SCHEDULES.get(self._config.schedule.name).step(state.scheduler, row[f"val_{self._watched}"])
        progress.epoch = row["epoch"]
        progress.seconds = time.monotonic() - self._started
        progress.history.append({**row, "best": improved})
        progress.stopped = self._reason_to_stop()
        if state.fabric.is_global_zero:
            self._save(improved, seconds)
        state.fabric.barrier()
        if self._logs is not None:
            self._logs.warn()
        self._reporter.info(
            f"epoch {row['epoch']}: loss {row['train_loss']:.4f}, validation {self._measured(row)}"
            f"{' (best)' if improved else ''}, {seconds:.1f} s"
        )

    def _value(self, row: Mapping[str, Any]) -> float:
        """Of an epoch; more is better."""
        watched = float(row[f"val_{self._watched}"])
        if math.isnan(watched):
            return -math.inf
        return -watched if self._watched == LOSS else watched

    def _measured(self, row: Mapping[str, Any]) -> str:
        """The metrics of an epoch in words, the one that selects first."""
        first = self._watched
        names = (first, *(name for name in reversed(self._task.METRICS) if name != first))
        return ", ".join(f"{TITLES.get(name, name)} {row[f'val_{name}']:.4f}" for name in names)

    def _finish_part(self, row: dict[str, Any], how_far: str) -> None:
        """Keeps what a part of the first epoch has learnt, as the run's best, and nothing to go on from."""
        progress = self._progress
        progress.epoch = progress.best_epoch = row["epoch"]
        progress.best_value, progress.seconds = self._value(row), time.monotonic() - self._started
        progress.history.append({**row, "best": True, "part": how_far})
        progress.stopped = f"{self._minutes()} {how_far}"
        still_there(self._folder)
        if self._state.fabric.is_global_zero:
            self._save_best()
            self._write_history()
            self._log(self._rows())
        self._state.fabric.barrier()

    def _save(self, improved: bool, seconds: float) -> None:
        state, progress = self._state, self._progress
        states = {
            "model": state.module.state_dict(),
            "optimizer": state.raw_optimizer.state_dict(),
            "scheduler": state.scheduler.state_dict(),
            "precision": state.fabric.strategy.precision.state_dict(),
        }
        last = last_content(progress, states)
        best = best_content(state.module, progress.best_epoch) if improved else None
        rows, history, timing = self._rows(), self._history(), {"epoch": progress.epoch, "seconds": round(seconds, 3)}

        def write() -> None:
            still_there(self._folder)
            files.write_bytes(self._folder / LAST, last)
            if best is not None:
                files.write_bytes(self._folder / BEST, best)
            files.write_text(self._folder / HISTORY, history)
            with files.disk_errors(self._folder / TIMING), (self._folder / TIMING).open("a") as handle:
                handle.write(json.dumps(timing) + "\n")
            self._log(rows)

        self._beside.start(write)

    def _log(self, rows: Sequence[dict[str, Any]]) -> None:
        if self._logs is not None:
            self._logs.update(rows)

    def _rows(self) -> list[dict[str, Any]]:
        return [written_row(row) for row in self._progress.history]

    def _history(self) -> str:
        return "".join(json.dumps(row) + "\n" for row in self._rows())

    def _write_history(self) -> None:
        files.write_text(self._folder / HISTORY, self._history())

    def _save_best(self) -> None:
        save_best(self._folder, self._state.module, self._progress.best_epoch)

    def _laid_out(self, batch: Tensor) -> Tensor:
        return batch if self._config.precision == "fp32" else _channels_last(batch)

    def _reason_to_stop(self) -> str | None:
        config, progress = self._config, self._progress
        rate = max(float(group["lr"]) for group in self._state.raw_optimizer.param_groups)
        if rate < config.min_learning_rate and SCHEDULES.get(config.schedule.name).falls:
            return f"the learning rate fell below {config.min_learning_rate:g}"
        if config.epochs is not None and progress.epoch >= config.epochs:
            return f"all {config.epochs} epochs done"
        patience = config.schedule.stop_patience
        since = progress.epoch - max(progress.best_epoch, config.head_training.freeze_first)
        if patience is not None and since >= patience:
            return f"no better validation {TITLES.get(self._watched, self._watched)} for {patience} epochs"
        if progress.epoch and self._out_of_time():
            return self._minutes()
        return self._judge(progress.history) if self._judge and progress.epoch else None

    def _minutes(self) -> str:
        return f"{self._config.max_minutes:g} minutes used up"

    def _in_time(self) -> None:
        """Ends the epoch where the minutes are used up; the first one may finish its validation."""
        if self._progress.epoch and self._out_of_time():
            raise _TimeUp

    def _out_of_time(self) -> bool:
        """Decided by the first process, so that all of them stop at the same step."""
        if math.isinf(self._limit):
            return False
        mine = time.monotonic() - self._started > self._limit
        return bool(self._state.fabric.broadcast(mine, src=0))

    def _not_a_number(self, epoch: int, step: int) -> TrainingError:
        way_out = "lower --learning-rate" + ("" if self._config.precision == "fp32" else " or pass --precision fp32")
        return TrainingError(
            f"the loss is not a finite number at epoch {epoch}, step {step} (learning rate "
            f"{self._config.learning_rate:g})",
            where=self._folder,
            fix=f"{way_out}; the {self._progress.epoch} finished epochs are kept",
        )


def predict(
    fabric: Fabric,
    forward: nn.Module,
    images: ImageBatches,
    batch_size: int,
    task: Task,
    lay_out: Any = None,
    watch: Callable[[], None] | None = None,
) -> tuple[Rows, NDArray[np.uint8] | None]:
    """What the task's measure keeps of all inputs, in order, in the precision of `fabric`: rows, and packed masks.

    `watch` is called at every batch.
    """
    forward.eval()
    measure, rows, masks = measure_of(task), [], []
    with torch.inference_mode():
        for batch, targets in evaluation_loader(images, batch_size):
            if watch:
                watch()
            batch = fabric.to_device(lay_out(batch) if lay_out else batch)
            outputs = forward(batch).float().cpu().numpy()
            rows.append(measure.keep(task, outputs, targets.numpy()))
            said = measure.masks(outputs)
            masks += [] if said is None else [said]
    return np.concatenate(rows), np.concatenate(masks) if masks else None


def _set_up(fabric: Fabric, config: TrainConfig, model: TransferModel, loss: nn.Module, better: Better) -> _State:
    if config.precision != "fp32":
        _module_channels_last(model)
    if config.head_training.dropout:
        drop_before_last(model.head, config.head_training.dropout)
    optimizer = OPTIMIZERS.get(config.optim.name).make(_groups(config, model), config.optim)
    forward, wrapped = fabric.setup(UpperPart(model) if config.cache_features else model, optimizer)
    scheduler = SCHEDULES.get(config.schedule.name).make(optimizer, config, better)
    short = fabric.device.type == "cpu" and config.precision == "bf16"
    derived = FloatDepthwiseGradients() if short else nullcontext()
    return _State(fabric, model, forward, wrapped, optimizer, scheduler, fabric.to_device(loss), derived)


def _groups(config: TrainConfig, model: TransferModel) -> list[dict[str, Any]]:
    if config.optim.rate_new is None:
        return model.parameter_groups(config.learning_rate)
    backbone = BACKBONES.get(config.model.backbone)
    new = backbone.all_units if config.weights == RANDOM else started_anew(backbone, config.init)
    return model.parameter_groups(config.learning_rate, config.optim.rate_new, new)


def _module_channels_last(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _channels_last(batch: Tensor) -> Tensor:
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
