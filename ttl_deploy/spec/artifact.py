"""What an artifact says of itself."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ttl_deploy.spec.inputs import OneInput, PreprocessSpec
from ttl_deploy.spec.model import ModelSpec
from ttl_deploy.spec.record import INPUT_VERSION, SCHEMA_VERSION, PathText, Record
from ttl_deploy.spec.task import OperatingPoint, TaskSpec


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
        label_agreement: Fraction of images with the same most likely class; of masks, of pixels.
        auroc: (reference, artifact), headline; None where the images or the logits cannot define it.
        auprc: (reference, artifact), headline; None likewise.
        quadratic_kappa: (reference, artifact) of grades; not written of other tasks.
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
        mask_overlap: Of masks, Dice of the two: the mean over the images and the least.
        dice: Of masks, (reference, artifact) with the drawn ones.
        dice_interval: 95 % interval of artifact minus reference (bootstrap by patient).
        runtime: The engine that was judged, where that is not the format's first; None, and not written, where it is.
    """

    reference: str
    images: int
    split: str
    max_logit_difference: float | None
    mean_logit_difference: float | None
    label_agreement: float
    auroc: tuple[float | None, float | None]
    auprc: tuple[float | None, float | None]
    quadratic_kappa: tuple[float | None, float | None] | None = Field(
        default=None, exclude_if=lambda pair: pair is None
    )
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
    mask_overlap: tuple[float, float] | None = Field(default=None, exclude_if=lambda pair: pair is None)
    dice: tuple[float | None, float | None] | None = Field(default=None, exclude_if=lambda pair: pair is None)
    dice_interval: tuple[float, float] | None = Field(default=None, exclude_if=lambda pair: pair is None)
    runtime: str | None = Field(default=None, exclude_if=lambda name: name is None)


class ArtifactManifest(OneInput):
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
        operating_point: Of two classes, where the second begins to be said; None: where it is the more probable. A
            manifest with one has schema version 2, because a reader of version 1 would decide otherwise; one of
            another task than exclusive classes has version 3, and one whose input is no square image of 1 or 3 channels
            version 4.
        parameters: Trainable parameters of the source model.
        macs: Multiply-adds for one image.
        files: Every file but the manifest, with its hash.
        source: The run it was exported from.
        tools: Versions of the libraries that made it.
        parity: Result of the check made at export.
        details: Further facts of the format: opset, calibration, layers left in a higher precision and the like.
        created: UTC time, ISO 8601.
    """

    NEWEST: ClassVar[int] = INPUT_VERSION

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
    operating_point: OperatingPoint | None = Field(default=None, exclude_if=lambda point: point is None)
    parameters: int
    macs: int
    files: dict[str, FileRecord]
    source: SourceRun
    tools: dict[str, str]
    parity: ParityRecord | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    created: str

    @property
    def told(self) -> dict[str, str]:
        """What another program needs to decide as the labels do, where that is not the most probable class."""
        task = self.model.task
        found = {} if task == TaskSpec() else {"task": task.kind, "positive_from": task.positive_from}
        if self.operating_point is not None:
            found["operating_point"] = self.operating_point.told
        return {key: value for key, value in found.items() if value is not None}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input without the batch: (C, H, W) for float32, (H, W, C) for uint8."""
        return self.model.input.array_shape if self.input_type == "uint8" else self.model.input.shape
