"""Training as a user asks for it: one run, a run resumed, several seeds or folds, and LWFT's incremental procedure.

Everything that can be refused is refused before the run's folder is touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from ttl_deploy import __version__, files, hardware
from ttl_deploy.complexity import count
from ttl_deploy.data.augment import refuse_augment
from ttl_deploy.data.class_names import refuse_positive_from, task_of_names
from ttl_deploy.data.manifest import dataset_of, refuse_misreading
from ttl_deploy.data.prepared import Prepared, prepare, prepare_like, write_split
from ttl_deploy.data.torch_data import ImageBatches, mix_seeds
from ttl_deploy.data.understood import write_understood
from ttl_deploy.errors import BadInputError, IntegrityError, TtlDeployError, about
from ttl_deploy.kept_memory import freed_memory_kept
from ttl_deploy.papers.beside import ours_of, paper_of
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import (
    Data,
    Model,
    ModelSpec,
    Network,
    PreprocessSpec,
    Protocol,
    Reading,
    SplitSpec,
    TrainConfig,
    VolumeSpec,
    make_record,
    version_of,
)
from ttl_deploy.spec.methods import METHOD_OPTIONS
from ttl_deploy.spec.training import Recipe
from ttl_deploy.tasks import TASKS
from ttl_deploy.training import evidence
from ttl_deploy.training import run as folders
from ttl_deploy.training.cached import check_size, feature_shape, remove_features
from ttl_deploy.training.checkpoint import Progress, load_best
from ttl_deploy.training.engine import make_fabric, resolve_device, resolve_precision
from ttl_deploy.training.logs import Names, Told, Warn, asked_loggers, logs_of_run, measured_on_test
from ttl_deploy.training.loop import Judge, Trainer, predict
from ttl_deploy.training.losses import refuse_weighing
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.monitor import refuse_monitor
from ttl_deploy.training.operation import operation, refuse_point
from ttl_deploy.training.optimizers import refuse_optim
from ttl_deploy.training.run import Predictions, Run, refuse_existing_run
from ttl_deploy.training.schedules import SCHEDULES, refuse_schedule
from ttl_deploy.transfer import METHODS, LoadReport, TransferModel, build, build_unfilled, initialise, resolve
from ttl_deploy.transfer.heads import HEADS, TapHead, usual_head
from ttl_deploy.transfer.initialise import start_of, weights_file
from ttl_deploy.zoo import BACKBONES, Backbone

AnyNetwork = TypeVar("AnyNetwork", bound=Network)

_NAMED_WEIGHTS = ("imagenet", "random")


def train(
    data: Data,
    model: Model,
    protocol: Protocol,
    out: str | Path,
    *,
    split: SplitSpec | None = None,
    division: str | Path | None = None,
    overwrite: bool = False,
    finish: bool = True,
    judge: Judge | None = None,
    log: Names = (),
    within: Path | None = None,
    unlogged: Warn | None = None,
    reporter: Reporter = SILENT,
) -> Run:
    """Trains one run.

    Args:
        data: The images.
        model: What to train.
        protocol: How to train it.
        out: Folder of the run.
        split: How to divide the images in place of what `data` says: a fold.
        division: A `split.csv` to follow instead.
        overwrite: Replace what is at `out`.
        finish: Evaluate the best model when training ends. Without it the run stays one that `resume` goes on with.
        judge: May end the training early.
        log: Loggers that are told of every epoch too: words, or text with commas between them.
        within: Folder of the search that it is a trial of.
        unlogged: Told of loggers that fail; None: the reporter is.
        reporter: Told what happens.

    Returns:
        The finished run.

    Raises:
        TtlDeployError: Bad data, options or weights (nothing was written), or training failed (the finished epochs
            are kept).
    """
    place = Path(out)
    refuse_existing_run(place, overwrite=overwrite)
    check(data, model, protocol)
    told = Told(asked_loggers(log), within, unlogged)
    fabric = _device(model, protocol, reporter)
    dataset = dataset_of(data, kind_of(model))
    model_spec, preprocess = specs(model, data, dataset.classes)
    refuse_point(protocol.operating_point, dataset.task)
    chosen = split or data.division
    prepared = _on_first(
        fabric,
        lambda: (
            prepare_like(dataset, preprocess, Path(division), cache_folder=data.cache, reporter=reporter)
            if division
            else prepare(
                dataset,
                preprocess,
                chosen,
                cache_folder=data.cache,
                skip_unreadable=data.skip_unreadable,
                reporter=reporter,
            )
        ),
    )
    refuse_unrankable(prepared)
    config = _configure(data, model, protocol, model_spec, preprocess, chosen, prepared.data_digest())
    module, weights = _model(config, reporter)
    if config.cache_features:
        check_size(config, feature_shape(module), len(prepared.indices("train")), len(prepared.indices("val")))
    if fabric.is_global_zero:
        with files.atomic_folder(place, overwrite=overwrite) as folder:
            folders.write_config(folder, config)
            write_split(folder / folders.SPLIT, prepared)
            if prepared.understood is not None:
                write_understood(folder / folders.DATA, prepared.understood)
    fabric.barrier()
    return _carry_out(fabric, Run(place, config), prepared, module, weights, reporter, finish, judge, told)


def resume(
    folder: str | Path,
    *,
    epochs: int | None = None,
    max_minutes: float | None = None,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    finish: bool = True,
    judge: Judge | None = None,
    log: Names = (),
    within: Path | None = None,
    unlogged: Warn | None = None,
    reporter: Reporter = SILENT,
) -> Run:
    """Goes on with a run that was interrupted, or lengthens one that ended.

    Args:
        folder: The run's folder.
        epochs: Another limit of epochs; None: as configured.
        max_minutes: Another limit of minutes, time already trained included.
        data: Where the same images are now; None: where they were.
        cache: Folder of the pixel cache.
        finish: As in `train`.
        judge: As in `train`.
        log: As in `train`; those that the run was begun with are not remembered.
        within: As in `train`.
        unlogged: As in `train`.
        reporter: Told what happens.

    Raises:
        BadInputError: It is not a run, or its images changed.
        IntegrityError: Its files are damaged.
    """
    folder, data, cache = Path(folder), files.as_path(data), files.as_path(cache)
    run, told = folders.open_run(folder), Told(asked_loggers(log), within, unlogged)
    folders.mend_lines(folder, reporter)
    run.history()
    moved = None if data is None else str(folders.place_of_data(run, data).resolve())
    changes = {"epochs": epochs, "max_minutes": max_minutes, "data": moved}
    config = make_record(TrainConfig, **{**dict(run.config), **{k: v for k, v in changes.items() if v is not None}})
    if config.epochs != run.config.epochs and SCHEDULES.get(config.schedule.name).by_epochs:
        raise BadInputError(
            f"its rate falls over {run.config.epochs} epochs ({config.schedule.name}), which cannot become "
            f"{config.epochs} on the way",
            where=folder,
            fix="leave --epochs out, or train another run",
        )
    fabric = make_fabric(resolve_device(config.accelerator), config.precision)
    prepared = _on_first(fabric, lambda: folders.run_data(run, data=data, cache=cache, reporter=reporter))
    if any(said is not None for said in prepared.slices) and prepared.data_digest() != config.data_digest:
        what = f"not the positive slices that {folder} is trained with"
        raise BadInputError(what, where=config.data, fix="restore the table, or train a new run")
    if config != run.config:
        folders.write_config(folder, config)
    files.remove_leftovers(folder)
    started = (folder / folders.LAST).exists()
    # The cached features come from the starting weights, which the checkpoint's frozen layers still are.
    with about(folder / folders.CONFIG):
        model, weights = (
            (build(config.model), None) if started and not config.cache_features else _model(config, reporter)
        )
    return _carry_out(fabric, Run(folder, config), prepared, model, weights, reporter, finish, judge, told)


def check(data: Data, model: Model, protocol: Protocol) -> None:
    """Refuses whatever can be seen to be wrong before the data is read.

    Args:
        data: How the images will be read.
        model: What is to be trained; a search asks with any cut.
        protocol: How.

    Raises:
        BadInputError: An option out of its range, or one of another method's.
        WeightsError: The starting weights are missing.
    """
    model_spec, preprocess = specs(model, data, ("a", "b"))
    _configure(data, model, protocol, model_spec, preprocess, data.division, "")
    _refuse_task(data, protocol)
    if data.classes is not None:
        refuse_windows(data.task, data.classes, preprocess)
    _refuse_slices(data, preprocess)
    if preprocess.windows is not None and protocol.cache_features:
        what = "the features of a study's windows are not kept"
        raise BadInputError(what, where="--cache-features", fix="leave it out, or --slice-stride")
    refuse_augment(protocol.augment, model.channels, preprocess.input.size)
    if _start(model)[0] not in _NAMED_WEIGHTS:
        weights_file(Path(model.weights))
    refuse_misreading(data)


def _refuse_slices(data: Data, preprocess: PreprocessSpec) -> None:
    """Refuses positive slices where there are no windows, or where they would not be those of the file."""
    if data.slices_column is None:
        return
    if preprocess.windows is None:
        what, fix = "names slices of windows, and a study is one input", "pass --slice-stride, or leave it out"
        raise BadInputError(what, where="--slices-column", fix=fix)
    if data.spacing is not None:
        what, fix = "counts the slices that are scanned, and --spacing makes others", "leave one of them out"
        raise BadInputError(what, where="--slices-column", fix=fix)


def _refuse_task(data: Data, protocol: Protocol) -> None:
    """Refuses what is wrong with the task or the protocol, as far as it can be seen without the data."""
    TASKS.get(data.task)
    refuse_optim(protocol.optim)
    refuse_schedule(protocol)
    refuse_monitor(protocol.schedule.monitor, data.task)
    refuse_weighing(data.task, protocol)
    refuse_positive_from(data.task_spec)
    if data.classes is not None:
        refuse_point(protocol.operating_point, task_of_names(data.task_spec, data.classes))


def refuse_unrankable(prepared: Prepared) -> None:
    """Raises `BadInputError` where the validation images show no difference, by which no epoch can be chosen."""
    task = prepared.task
    if measure_of(task).untellable(task, prepared.labels[prepared.indices("val")]):
        raise BadInputError(
            "no class has images with it and without it on the validation side",
            where=", ".join(task.classes),
            fix="give more images, another --split or --split-seed",
        )


def specs(model: Model, data: Data, classes: Sequence[str]) -> tuple[ModelSpec, PreprocessSpec]:
    """The model and the preprocessing that a user means.

    Raises:
        BadInputError: Unknown backbone, method, head or cut, or a number out of range.
    """
    backbone = BACKBONES.get(model.backbone)
    METHODS.get(model.method)
    METHOD_OPTIONS.refuse_others_of(model.method, model)
    taken = backbone.input_spec(model.image_size, model.channels)
    model = with_head(model, data)
    refuse_other_head(model.head, data.task, backbone)
    fields = {
        **model.shared(ModelSpec),
        "input": taken,
        "task": data.task_spec,
        "classes": tuple(classes)[: 1 if TASKS.get(data.task).DENSE else None],
    }
    record = make_record(ModelSpec, **fields)
    preprocess = make_record(
        PreprocessSpec.of,
        given=taken,
        crop=data.crop,
        high_bit_depth=data.high_bit_depth,
        **_normalisation(backbone, model.channels),
        **_rule(backbone, data),
    )
    refuse_windows(data.task, classes, preprocess)
    return resolve(record).spec, preprocess


def kind_of(network: Network) -> str:
    """The kind of the inputs that a network takes, as in `InputSpec`."""
    return BACKBONES.get(network.backbone).kind


def _rule(backbone: Backbone, data: Data) -> dict[str, VolumeSpec]:
    """What else than pictures a backbone's inputs need.

    Raises:
        BadInputError: An option is of the other kind of inputs.
    """
    volumes = backbone.kind == "volume"
    if volumes and TASKS.get(data.task).DENSE:
        what = f"backbone {backbone.name} reads volumes, and task {data.task} is of images"
        raise BadInputError(what, fix="choose a backbone that reads images")
    needless = {"high_bit_depth"} if volumes else {"hu_window", "spacing", "slice_stride"}
    fields = type(data).model_fields
    said = sorted(name for name in needless if getattr(data, name) != fields[name].default)
    if said:
        what = f"backbone {backbone.name} reads {backbone.kind}s, and this is not of them"
        other = f"or choose a backbone that reads {'image' if volumes else 'volume'}s"
        raise BadInputError(what, where=f"--{said[0].replace('_', '-')}", fix=f"leave it out, {other}")
    if not volumes:
        return {}
    rule = make_record(VolumeSpec, window=data.hu_window, spacing=data.spacing, slice_stride=data.slice_stride)
    return {"volume": rule}


def refuse_windows(kind: str, classes: Sequence[str], preprocess: PreprocessSpec) -> None:
    """Raises `BadInputError` where a study is read in windows and its task knows no maximum over them."""
    if preprocess.windows is None:
        return
    problem = TASKS.get(kind)(tuple(classes)).ungathered
    if problem is not None:
        raise BadInputError(problem[0], where="--slice-stride", fix=problem[1])


def with_head(network: AnyNetwork, data: Data) -> AnyNetwork:
    """A network with the head that its task has where nothing was said of it."""
    default = _usual_head(data.task, BACKBONES.get(network.backbone))
    said = "head" in network.model_fields_set
    return network if said or network.head == default else network.model_copy(update={"head": default})


def _usual_head(kind: str, backbone: Backbone) -> str:
    return "unet" if TASKS.get(kind).DENSE else usual_head(backbone)


def refuse_other_head(head: str, kind: str, backbone: Backbone) -> None:
    """Raises `BadInputError` where a head gives one answer for an image and the task wants maps, or the reverse."""
    maps, wanted = isinstance(HEADS.get(head), TapHead), TASKS.get(kind).DENSE
    if maps != wanted:
        gives, wants = ("an image", "each pixel")[maps], ("an image", "each pixel")[wanted]
        raise BadInputError(
            f"head {head} says something of {gives}, and task {kind} of {wants}",
            fix=f"pass --head {_usual_head(kind, backbone)}",
        )


def _normalisation(backbone: Backbone, channels: int) -> dict[str, Any]:
    """What the backbone's pretraining did to its images, where that is not ImageNet's own."""
    if backbone.normalisation is None:
        return {}
    values = (_of_channels(value, channels) for value in backbone.normalisation)
    return dict(zip(("mean", "std"), values, strict=True))


def _of_channels(value: float | tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A value for each channel; the mean of those of a pretraining with another number of channels."""
    if not isinstance(value, tuple):
        return (value,) * channels
    return value if len(value) == channels else (sum(value) / len(value),) * channels


def load_model(run: Run) -> TransferModel:
    """The run's best model on the CPU, in evaluation mode."""
    with about(run.folder / folders.CONFIG):
        model = build_unfilled(run.config.model)
    load_best(run.folder, model)
    return model.eval()


def starting_model(run: Run) -> TransferModel:
    """The run's model as it was before its first step, on the CPU, in evaluation mode.

    Raises:
        WeightsError: The starting weights are gone or do not fit.
        IntegrityError: They are others than those that the run recorded.
    """
    model, loaded = _model(run.config, SILENT)
    recorded = run.metrics().get("start_sha256") if run.finished else None
    if recorded is not None and loaded.sha256 != recorded:
        raise IntegrityError(
            f"are not the weights that {run.name} began with: their SHA-256 is {loaded.sha256}, recorded is {recorded}",
            where=run.config.weights,
            fix="restore them",
        )
    return model.eval()


def predict_fp32(
    model: TransferModel,
    prepared: Prepared,
    side: str,
    config: TrainConfig,
    indices: NDArray[np.int64] | None = None,
) -> Predictions:
    """What is said of one side in fp32, whatever precision it was trained in: this is the model that gets exported.

    Args:
        model: Says it.
        prepared: The images.
        side: Of the division.
        config: Preprocessing, batch size and device.
        indices: Which images of the side; None: all.
    """
    indices = prepared.indices(side) if indices is None else indices
    images = ImageBatches(prepared, prepared.inputs(indices), config.preprocess)
    fabric = Fabric(accelerator=config.accelerator, devices=1, precision="32-true")
    module = fabric.setup_module(model)
    with freed_memory_kept(config.accelerator == "cpu"), _without_tf32():
        said, masks = predict(fabric, module, images, config.batch_size, prepared.task)
    said = prepared.task.gather(said, prepared.counts(indices))
    ids = tuple(prepared.ids[i] for i in indices)
    return Predictions(ids, (side,) * len(ids), prepared.labels[indices], said, masks)


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """CuDNN would otherwise multiply in TF32, with ten bits of mantissa, and no fp32 artifact would agree with that."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _device(model: Model, protocol: Protocol, reporter: Reporter) -> Fabric:
    """Starts the device."""
    accelerator = resolve_device(protocol.device)
    precision, sentence = resolve_precision(protocol.precision, accelerator, kind_of(model))
    reporter.info(f"{hardware.describe().name}; {sentence}")
    return make_fabric(accelerator, precision)


def _configure(
    data: Data,
    model: Model,
    protocol: Protocol,
    model_spec: ModelSpec,
    preprocess: PreprocessSpec,
    split: SplitSpec,
    digest: str,
) -> TrainConfig:
    accelerator = resolve_device(protocol.device)
    weights, init = _start(model)
    return make_record(
        TrainConfig,
        schema_version=version_of(model_spec.input),
        data=str(data.path.resolve()),
        data_digest=digest,
        model=model_spec,
        preprocess=preprocess,
        split=split,
        reading=Reading(**{**data.shared(Reading), "classes": model_spec.classes}),
        weights=weights if weights in _NAMED_WEIGHTS else str(Path(weights).resolve()),
        init=init,
        precision=resolve_precision(protocol.precision, accelerator, model_spec.input.kind)[0],
        accelerator=accelerator,
        **protocol.shared(Recipe),
    )


def _start(model: Model) -> tuple[str, str]:
    return start_of(model.weights, model.init, BACKBONES.get(model.backbone))


def _model(config: TrainConfig, reporter: Reporter) -> tuple[TransferModel, LoadReport]:
    torch.manual_seed(mix_seeds(config.seed, 0))
    model = build(config.model)
    loaded = initialise(model, config.weights, config.init)
    reporter.info(str(loaded))
    if loaded.missing:
        reporter.warn(f"{len(loaded.missing)} of {loaded.wanted} tensors of the reused layers start from random values")
    return model, loaded


def _on_first(fabric: Fabric, make: Callable[[], Prepared]) -> Prepared:
    """Lets the first process of a machine fill the cache before the others read it."""
    if fabric.local_rank == 0:
        prepared = make()
        fabric.barrier()
        return prepared
    fabric.barrier()
    return make()


def _carry_out(
    fabric: Fabric,
    run: Run,
    prepared: Prepared,
    model: TransferModel,
    weights: LoadReport | None,
    reporter: Reporter,
    finish: bool,
    judge: Judge | None,
    told: Told,
) -> Run:
    names = told.loggers if fabric.is_global_zero else ()
    kept = freed_memory_kept(fabric.device.type == "cpu")
    with kept, logs_of_run(run.folder, run.config, names, told, reporter) as logs:
        trainer = Trainer(fabric, run.config, prepared, model, run.folder, weights, reporter, judge, logs)
        trainer.resume()
        progress = trainer.run()
        if finish and fabric.is_global_zero:
            _finish(run, prepared, progress, reporter)
            remove_features(run.folder)
            logs.result(measured_on_test(run.metrics()["test"], run.task.METRICS), progress.best_epoch)
    fabric.barrier()
    return run


def _finish(run: Run, prepared: Prepared, progress: Progress, reporter: Reporter) -> None:
    """Evaluates the best model in fp32 on validation and test, and writes the run's last files.

    A run that was evaluated already and has not changed keeps its files, so that artifacts still name its metrics.
    """
    if _evaluated(run):
        return
    config = run.config
    model = load_model(run)
    complexity = count(model, config.model.input_shape)
    with reporter.task("evaluating in fp32", 2) as advance:
        sides = []
        for side in ("val", "test"):
            sides.append(predict_fp32(model, prepared, side, config))
            advance(1, side)
    measured = {side.sides[0]: _metrics(side, prepared) for side in sides}
    for side, metrics in measured.items():
        if metrics.caution:
            reporter.warn(f"{side} side: {metrics.caution}")
    folders.still_there(run.folder)
    said = _joined(sides)
    folders.write_predictions(run.folder, prepared.task, said)
    record = {
        "classes": list(prepared.classes),
        **{side: metrics.model_dump(mode="json") for side, metrics in measured.items()},
        **_operation(config, said, prepared, reporter),
        **_paper(config, measured["test"], prepared, reporter),
        "images": {side: len(prepared.indices(side)) for side in ("train", "val", "test")},
        "unreadable": len(prepared.cached.unreadable),
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "stopped": progress.stopped,
        "seconds": round(progress.seconds, 2),
        "parameters": complexity.parameters,
        "trainable": complexity.trainable,
        "macs": complexity.macs,
        "weights": progress.weights,
        **({"start_sha256": progress.start_sha256} if progress.start_sha256 else {}),
        "weights_sha256": files.sha256(run.weights),
        evidence.FILES: evidence.hashes(run.folder, folders.evidence_of(prepared.task)),
        "seed": config.seed,
        "program": __version__,
        "command": hardware.command(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware.describe().as_dict(),
        "libraries": hardware.library_versions(),
    }
    files.write_json(run.folder / folders.METRICS, record)


def _evaluated(run: Run) -> bool:
    """Whether the run's last files are there and of this very configuration and weights."""
    try:
        return folders.finished_run(run.folder).hashes_recorded
    except TtlDeployError:
        return False


def _operation(config: TrainConfig, said: Predictions, prepared: Prepared, reporter: Reporter) -> dict[str, Any]:
    """The operating point as `metrics.json` has it, where one was asked for."""
    if config.operating_point is None:
        return {}
    patients = dict(zip(prepared.ids, prepared.patients, strict=True))
    found = operation(said, config.operating_point, patients, prepared.task)
    if not found.val.sensitivity.hits:
        reporter.warn(
            f"operating point {config.operating_point}: nothing on the validation side is {prepared.task.positive}"
        )
    return {"operating_point": found.model_dump(mode="json")}


def _paper(config: TrainConfig, test: Any, prepared: Prepared, reporter: Reporter) -> dict[str, Any]:
    """The printed rows of the run's recipe, where there is one."""
    here = f"{len(prepared.indices('test'))} test images"
    return paper_of(config, ours_of(test.model_dump(mode="json")), here, reporter)


def _metrics(predictions: Predictions, prepared: Prepared) -> Any:
    """What the task's measure makes of a side."""
    patients = dict(zip(prepared.ids, prepared.patients, strict=True))
    known = any(patient is not None for patient in prepared.patients)
    groups = [patients[image] or image for image in predictions.ids] if known else None
    task = prepared.task
    return measure_of(task).evaluate(task, predictions.labels, predictions.logits, groups=groups)


def _joined(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        tuple(i for part in parts for i in part.ids),
        tuple(s for part in parts for s in part.sides),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.logits for part in parts]),
        None if parts[0].masks is None else np.concatenate([part.masks for part in parts if part.masks is not None]),
    )
