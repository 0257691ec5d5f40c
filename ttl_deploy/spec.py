"""The small, versioned records that travel in runs and artifacts: a model, its preprocessing, a training, an export.

Pydantic models, frozen, unknown fields refused, so that a record of a newer version is told instead of half-read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from ttl_deploy.errors import BadInputError, DamagedError

SCHEMA_VERSION = 1
"""Version of the manifest and of the run's config; raised when an older reader would misread the record."""


def _any_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    if "\0" in value:
        raise ValueError("holds a zero byte")
    return value


PathText = Annotated[str, PlainValidator(_any_text)]
"""A path or a name of a file, which need not be Unicode; pydantic's own text does."""

Fraction = Annotated[float, Field(gt=0, lt=1)]


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """Hex SHA-256 of the record's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


AnyRecord = TypeVar("AnyRecord", bound=Record)


class PreprocessSpec(Record):
    """How an image file becomes the network's input; the rule itself is written in `ttl_deploy.preprocess`.

    Attributes:
        image_size: Height and width of the input, pixels.
        channels: 3, grey replicated, or 1, colour reduced to luma.
        crop: `center`, the largest centred square, as in the paper (appendix A.1); `none`, the whole image squeezed.
        high_bit_depth: 16-bit images use their `full-range` (0..65535) or each image's own `min-max`.
        mean: Per channel, on the 0..1 scale.
        std: Per channel, on the 0..1 scale.
    """

    image_size: int = Field(224, ge=8, le=4096)
    channels: Literal[1, 3] = 3
    crop: Literal["center", "none"] = "center"
    high_bit_depth: Literal["full-range", "min-max"] = "full-range"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _one_per_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one per channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    @classmethod
    def of(cls, image_size: int, channels: Literal[1, 3] = 3, **more: Any) -> Self:
        """The ImageNet normalisation for 3 channels, its mean over the channels for 1."""
        if channels == 1:
            more = {"mean": (0.449,), "std": (0.226,), **more}
        return cls(image_size=image_size, channels=channels, **more)

    def pixel_digest(self) -> str:
        """Digest of what decides the 8-bit pixels: everything but mean and std."""
        return PreprocessSpec.of(
            self.image_size, self.channels, crop=self.crop, high_bit_depth=self.high_bit_depth
        ).digest()


class ModelSpec(Record):
    """Everything needed to rebuild a transfer model without its weights.

    Attributes:
        backbone: Name in the zoo.
        method: `ftl`, `ttl`, `tf` or `lwft`.
        cut: Name of the cut point: the last unit kept (ttl), reused (tf) or frozen (lwft). None for ftl.
        trained_layers: LWFT's k counted from the head (paper, section 3.1); an alternative to `cut`.
        head: `gap` or `flatten`.
        slim: TF's divisor of the channels above the cut (2: the paper's halving).
        classes: Class names in the order of the outputs; a binary task has two, the second is the positive one.
        image_size: Height and width of the input, pixels.
        channels: Input channels.
    """

    backbone: str
    method: str = "ftl"
    cut: str | None = None
    trained_layers: int | None = Field(None, ge=1)
    head: str = "gap"
    slim: int = Field(2, ge=2)
    classes: tuple[str, ...] = Field(min_length=2)
    image_size: int = Field(224, ge=8)
    channels: int = Field(3, ge=1)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input without the batch: (channels, height, width)."""
        return (self.channels, self.image_size, self.image_size)


class SplitSpec(Record):
    """How data is divided: by patient where patients are known, stratified by class.

    Attributes:
        train: Fraction for training (paper, appendix A.1: 0.64).
        val: Fraction for validation (0.16).
        test: Fraction for test (0.20).
        folds: Number of folds for cross-validation; the fold is the test set, `test` is then 1/folds.
        fold: Which fold, from 0.
        seed: Seed of the shuffle.
    """

    train: Fraction = 0.64
    val: Fraction = 0.16
    test: Fraction = 0.20
    folds: int | None = Field(None, ge=2)
    fold: int | None = Field(None, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"train, val and test add up to {self.train + self.val + self.test:g}, not to 1")
        if (self.folds is None) != (self.fold is None):
            raise ValueError("folds and fold are given together")
        if self.folds is not None and self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist; folds are 0 to {self.folds - 1}")
        return self


class AugmentSpec(Record):
    """Training-time augmentation: random crop and slight rotation (paper, appendix A.1).

    Attributes:
        crop_scale: Smallest area of the random crop as a fraction of the image; 1 turns cropping off.
        rotation: Largest rotation to either side, degrees; 0 turns it off.
        flip: Probability of a horizontal flip. 0: mirrored anatomy is another anatomy.
    """

    crop_scale: float = Field(0.8, gt=0, le=1)
    rotation: float = Field(10.0, ge=0, le=180)
    flip: float = Field(0.0, ge=0, le=1)


class TrainConfig(Record):
    """Everything that decides a training's result; defaults are the paper's protocol (appendix A.1).

    Attributes:
        data: Absolute path of the CSV, folder or .npz.
        data_digest: SHA-256 over every image's content and label; a resumed run refuses other data.
        model: What is trained.
        preprocess: Evaluation-time preprocessing.
        split: How the data was divided.
        augment: Training-time augmentation.
        weights: `imagenet`, `random`, or the absolute path of a weights file or run.
        seed: Seed of initialisation, shuffling and augmentation.
        learning_rate: Base learning rate of Adam.
        batch_size: Images per step and device.
        epochs: Most epochs; None: until the learning rate falls below `min_learning_rate`.
        max_minutes: Most minutes of training, resumed time included.
        patience: Epochs without a better validation AUPRC before the rate is halved (PyTorch's default).
        factor: Multiplier of the rate then.
        min_learning_rate: Training ends when the rate falls below.
        class_weights: `balanced` weighs the loss by inverse class frequency.
        precision: `fp32`, `bf16` or `fp16`, already resolved (never `auto`).
        workers: Processes that augment images.
        accelerator: `cpu` or `cuda`.
        cached_views: LWFT: augmentation views of which the frozen layers' features are kept; 0: computed every time.
        cached_gib: Most disk for them, GiB.
    """

    schema_version: int = SCHEMA_VERSION
    data: PathText
    data_digest: str
    model: ModelSpec
    preprocess: PreprocessSpec
    split: SplitSpec = SplitSpec()
    augment: AugmentSpec = AugmentSpec()
    weights: PathText = "imagenet"
    seed: int = Field(0, ge=0, lt=2**63)
    learning_rate: float = Field(1e-4, gt=0, le=3e38)  # of float32
    batch_size: int = Field(64, ge=1, le=2**20)
    epochs: int | None = Field(None, ge=1)
    max_minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    patience: int = Field(10, ge=0)
    factor: float = Field(0.5, gt=0, lt=1)
    min_learning_rate: float = Field(1e-7, ge=0)
    class_weights: Literal["none", "balanced"] = "none"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    workers: int = Field(0, ge=0, le=1024)
    accelerator: Literal["cpu", "cuda"] = "cpu"
    cached_views: int = Field(0, ge=0, le=2**20)
    cached_gib: float = Field(8.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        for name in ("image_size", "channels"):
            of_model, of_preprocess = getattr(self.model, name), getattr(self.preprocess, name)
            if of_model != of_preprocess:
                raise ValueError(f"{name} is {of_model} in model and {of_preprocess} in preprocess")
        return self


class FileRecord(Record):
    """A file of an artifact."""

    sha256: str
    size: int


class SourceRun(Record):
    """Where an artifact comes from.

    Attributes:
        name: The run's folder.
        weights_sha256: SHA-256 of its weights file.
        config_digest: Digest of its configuration as it stands on disk.
        metrics_sha256: SHA-256 of its `metrics.json`, which records the hashes of all its other files; None in
            artifacts of older versions.
    """

    name: PathText
    weights_sha256: str
    config_digest: str
    metrics_sha256: str | None = None


class ParityRecord(Record):
    """The parity result stored with an artifact.

    Attributes:
        reference: What the artifact was compared with.
        images: How many images both sides saw.
        split: Which side of the run's split they are from.
        max_logit_difference: Largest absolute difference of any logit; None where none could be taken.
        mean_logit_difference: Mean absolute difference; None where none could be taken.
        label_agreement: Fraction of images with the same most likely class.
        auroc: (reference, artifact), headline; None where the images or the logits cannot define it.
        auprc: (reference, artifact), headline; None likewise.
        verdict: pass, fail or inconclusive.
        reason: The number and the bound behind the verdict.
        images_needed: For an inconclusive verdict, about how many images would tell; None where not known.
        auroc_interval: 95 % interval of artifact minus reference (DeLong, by patient where patients are known).
        auprc_interval: The same of AUPRC (paired bootstrap).
        ece: Expected calibration error of (reference, artifact).
        brier: Brier score of (reference, artifact).
        prediction_similarity: How often both are right or both wrong, and how often if they erred independently.
        worst: Ids of the images on which the two differ most, the worst first.
        precision: The precision by whose bounds it was judged: what the graph is, where its file shows that. This and
            what follows is None or empty in records of older versions.
        probability_difference: 99th percentile over the images, and largest, absolute change of a probability.
        mean_probability_shift: Change of each class's mean probability, artifact minus reference.
        logit_scale: By how much the logits are multiplied; 1: not at all.
        logit_offset: Largest typical change of a class's logit, in units of how much logits vary.
        calibration_interval: 95 % interval of the change of the calibration error.
        preprocessing: What differs in the preprocessing of the two, a sentence each; the verdict is a fail unless that
            was said to be meant.
    """

    reference: str
    images: int
    split: str
    max_logit_difference: float | None
    mean_logit_difference: float | None
    label_agreement: float
    auroc: tuple[float | None, float | None]
    auprc: tuple[float | None, float | None]
    verdict: Literal["pass", "fail", "inconclusive"]
    reason: str
    images_needed: int | None = None
    auroc_interval: tuple[float, float] | None = None
    auprc_interval: tuple[float, float] | None = None
    ece: tuple[float | None, float | None] | None = None
    brier: tuple[float | None, float | None] | None = None
    prediction_similarity: tuple[float, float] | None = None
    worst: tuple[PathText, ...] = ()
    precision: str | None = None
    probability_difference: tuple[float, float] | None = None
    mean_probability_shift: tuple[float, ...] = ()
    logit_scale: float | None = None
    logit_offset: float | None = None
    calibration_interval: tuple[float, float] | None = None
    preprocessing: tuple[str, ...] = ()


class ArtifactManifest(Record):
    """What an artifact folder holds and where it comes from.

    Attributes:
        schema_version: Version of this record.
        format: Name of the exporter (`onnx`).
        precision: Precision of the graph.
        model_file: The file a runtime opens.
        model: Spec of the exported model.
        preprocess: What turns an image into the model's input.
        input_name: Name of the graph's input.
        input_type: `float32`: (batch, channels, height, width), preprocessed. `uint8`: (batch, height, width, channels)
            8-bit pixels; scaling and normalisation are in the graph.
        output_name: Name of the graph's output, float32 (batch, classes).
        activation: What the graph does to the logits at its end: `none`, `softmax` or `sigmoid`.
        parameters: Trainable parameters of the source model.
        macs: Multiply-adds for one image.
        files: Every file but the manifest, with its hash.
        source: The run it was exported from.
        tools: Versions of the libraries that made it.
        parity: Result of the check made at export.
        details: Further facts of the format: opset, calibration, layers left in a higher precision and the like.
        created: UTC time, ISO 8601.
    """

    schema_version: int = SCHEMA_VERSION
    format: str
    precision: str
    model_file: str
    model: ModelSpec
    preprocess: PreprocessSpec
    input_name: str = "images"
    input_type: Literal["float32", "uint8"] = "float32"
    output_name: str = "logits"
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    parameters: int
    macs: int
    files: dict[str, FileRecord]
    source: SourceRun
    tools: dict[str, str]
    parity: ParityRecord | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    created: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input without the batch: (C, H, W) for float32, (H, W, C) for uint8."""
        channels, *positions = self.model.input_shape
        return (*positions, channels) if self.input_type == "uint8" else self.model.input_shape


def read_record(kind: type[AnyRecord], content: Any, where: str | Path, *, fix: str | None = None) -> AnyRecord:
    """Validates a record that was read from a file.

    Raises:
        DamagedError: It is of a newer schema, or a field is missing or wrong; the error names field and file.
    """
    version = content.get("schema_version", SCHEMA_VERSION) if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DamagedError(
            f"schema version {version} is newer than this program's {SCHEMA_VERSION}",
            where=where,
            fix="upgrade ttl-deploy",
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise DamagedError(f"not a valid {kind.__name__}: {_first(error)}", where=where, fix=fix) from error


def make_record(kind: Callable[..., AnyRecord], **fields: Any) -> AnyRecord:
    """Builds a record, by its class or another constructor of it, from the user's options.

    Raises:
        BadInputError: A value is out of its range; the error names it.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise BadInputError(_first(error), fix="see --help for the valid range") from error


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message} (got {problem['input']!r:.80})" if place else message
