"""How much an exported model may differ from the one that was validated; `ttl_deploy.parity.compare` judges by it.

The bounds of each precision were chosen from sound exports over the zoo, `reports/parity-gate.md`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ttl_deploy.errors import BadInputError, near
from ttl_deploy.spec.record import Record
from ttl_deploy.spec.said import Said

_DROP = 0.005

# Each at least twice what the worst sound export of any backbone moved, see `reports/parity-gate.md`, which also shows
# what they catch, and what they say of networks that were trained otherwise.
_HALF = {
    "max_calibration_shift": 0.015,
    "max_probability_difference": 0.1,
    "max_p99_difference": 0.1,
    "max_mean_shift": 0.005,
    "max_scale_change": 0.02,
    "max_logit_offset": 0.02,
}
_BY_PRECISION: dict[str, dict[str, float]] = {
    "fp32": {
        "max_logit_difference": 1e-3,
        # Some seventy times what another order of summation was seen to move a typical logit by, a fifth of what
        # float16 weights do.
        "max_typical_difference": 3e-5,
        "max_calibration_shift": 1e-4,
        "max_probability_difference": 1e-4,
        "max_p99_difference": 5e-5,
        "max_mean_shift": 2e-5,
        "max_scale_change": 5e-5,
        "max_logit_offset": 5e-5,
    },
    "fp16": _HALF,
    "tf32": _HALF,
    "bf16": {
        "max_calibration_shift": 0.015,
        "max_probability_difference": 0.2,
        "max_p99_difference": 0.1,
        "max_mean_shift": 0.015,
        "max_scale_change": 0.03,
        "max_logit_offset": 0.03,
    },
    "int8": {
        "max_calibration_shift": 0.02,
        "max_probability_difference": 0.35,
        "max_p99_difference": 0.3,
        "max_mean_shift": 0.02,
        "max_scale_change": 0.15,
        "max_logit_offset": 0.05,
    },
}
# Rounding turns pixels on the rim of a mask only. Not yet chosen from the zoo as the others are.
_OVERLAP = {"fp32": 0.9995, "fp16": 0.995, "tf32": 0.995, "bf16": 0.99, "int8": 0.97}
for _precision, _least in _OVERLAP.items():
    _BY_PRECISION[_precision] = {**_BY_PRECISION[_precision], "min_mask_overlap": _least}
_SHOWN = ("fp32", "fp16", "bf16", "int8")
_MLPERF = {"mlperf-99": 0.99, "mlperf-99.9": 0.999}


def _told(name: str) -> Said:
    """What help shows as a bound's default: that of each precision."""
    values = {precision: _BY_PRECISION[precision].get(name) for precision in _SHOWN}
    known = {precision: f"{value:.6f}".rstrip("0") for precision, value in values.items() if value is not None}
    if list(known) == ["fp32"]:
        return Said(default=f"{known['fp32']} for fp32, else not judged")
    return Said(default=", ".join(f"{precision} {value}" for precision, value in known.items()))


class Bounds(Record):
    """How much an exported model may differ, in the words of `ttl_deploy.parity.compare`.

    Without a precision a bound that was not given is its default below; `filled` puts the precision's in its place.
    None: not judged.

    Attributes:
        preset: `mlperf-99` and `mlperf-99.9` are the rule of MLPerf Inference: the candidate reaches 99 % or 99.9 % of
            the reference's metric, and nothing else counts; what is given beside it does too.
        max_auroc_drop: Most that the headline AUROC may be lower.
        max_auprc_drop: Most that the headline AUPRC may be lower.
        max_kappa_drop: Most that the quadratic kappa of grades may be lower.
        max_dice_drop: Most that the mean Dice with the drawn masks may be lower.
        min_mask_overlap: Least mean Dice of the two models' masks.
        min_label_agreement: Least fraction of images with the same decision.
        max_probability_difference: Most that any probability may change.
        max_p99_difference: Most that the probabilities of 99 % of the images may change.
        max_mean_shift: Most that any class's mean probability may change.
        max_scale_change: Most that `Shift.scale` may differ from 1.
        max_logit_offset: Most that `Shift.offset` may be.
        max_calibration_shift: Most that the calibration error (`Changes.calibration`) may change and the Brier score
            may rise.
        max_logit_difference: Most that `Comparison.largest_relative` may be. Rounding grows with the logits, so an
            absolute bound would be lax for a network with small logits and unfair to one with large.
        max_typical_difference: Most that `Comparison.typical_relative` may be.
        min_metric_ratio: Least fraction of the reference's AUROC and AUPRC that the candidate keeps; the tighter of
            this and the drops counts.
    """

    PANEL: ClassVar[str] = "Bounds"

    preset: Annotated[
        Literal["default", "mlperf-99", "mlperf-99.9"],
        Field(
            description="Which bounds: default, as below; mlperf-99 or mlperf-99.9, MLPerf's rule: AUROC and AUPRC "
            "reach 99 % or 99.9 % of the reference's, and nothing else counts. Bounds given beside it are added."
        ),
    ] = "default"
    max_auroc_drop: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Most AUROC the artifact may lose. The whole 95 % interval of the loss inside: pass; all of it "
            "outside: fail; else inconclusive, with the number of images that would tell.",
        ),
    ] = _DROP
    max_auprc_drop: Annotated[
        float, Field(ge=0, le=1, description="Most AUPRC the artifact may lose; judged likewise.")
    ] = _DROP
    max_kappa_drop: Annotated[
        float,
        Field(ge=0, le=2, description="Grades: most quadratic kappa the artifact may lose; judged likewise."),
    ] = _DROP
    max_dice_drop: Annotated[
        float, Field(ge=0, le=1, description="Masks: most mean Dice the artifact may lose; judged likewise.")
    ] = _DROP
    min_mask_overlap: Annotated[
        float | None,
        Field(ge=0, le=1, description="Masks: least mean Dice of the artifact's masks with the reference's."),
        _told("min_mask_overlap"),
    ] = None
    min_label_agreement: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Least fraction of images with the same predicted class. Below it but not surely: "
            "inconclusive.",
        ),
    ] = 0.99
    max_probability_difference: Annotated[
        float | None,
        Field(ge=0, le=1, description="Most that any probability of any image may change."),
        Said(default=f"by precision: {_told('max_probability_difference').default}"),
    ] = None
    max_p99_difference: Annotated[
        float | None,
        Field(ge=0, le=1, description="Most that the probabilities of 99 % of the images may change."),
        _told("max_p99_difference"),
    ] = None
    max_mean_shift: Annotated[
        float | None,
        Field(ge=0, le=1, description="Most that a class's mean probability may change, to either side."),
        _told("max_mean_shift"),
    ] = None
    max_scale_change: Annotated[
        float | None,
        Field(ge=0, description="Most that the logits may be stretched or shrunk: 0.1 is by a tenth."),
        _told("max_scale_change"),
    ] = None
    max_logit_offset: Annotated[
        float | None,
        Field(
            ge=0,
            description="Most that a class's logits may be moved, in units of how much logits vary between images.",
        ),
        _told("max_logit_offset"),
    ] = None
    max_calibration_shift: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="Most that the calibration error (ECE) may change and the Brier score rise; judged by their "
            "intervals.",
        ),
        _told("max_calibration_shift"),
    ] = None
    max_logit_difference: Annotated[
        float | None,
        Field(gt=0, description="Largest difference of a logit, relative to the size of the logits."),
        _told("max_logit_difference"),
    ] = None
    max_typical_difference: Annotated[
        float | None,
        Field(gt=0, description="The same of the median image: what fp32 may differ by rounding."),
        _told("max_typical_difference"),
    ] = None
    min_metric_ratio: Annotated[float | None, Field(gt=0, le=1)] = None

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        """The preset's bounds where nothing else was given."""
        name = given.get("preset", "default") if isinstance(given, dict) else "default"
        if name == "default":
            return given
        if name not in _MLPERF:
            raise BadInputError(f"unknown preset {name!r}", fix=near(str(name), ("default", *_MLPERF)))
        wide = {"max_auroc_drop": 1, "max_auprc_drop": 1, "max_kappa_drop": 2, "max_dice_drop": 1}
        wide |= {"min_label_agreement": 0, "min_mask_overlap": 0}
        optional = dict.fromkeys(bound for bound in cls.model_fields if bound.startswith("max_"))
        return {**optional, **wide, "min_metric_ratio": _MLPERF[name], **given}

    @classmethod
    def for_precision(cls, precision: str) -> Self:
        """The defaults for a precision; an unknown one gets those of fp32.

        fp32 only rounds differently, so every logit is bound to some times what rounding was seen to move. Lower
        precisions move every logit by design and are judged by what that does to probabilities and decisions.
        """
        return cls(**_BY_PRECISION.get(precision, _BY_PRECISION["fp32"]))

    def filled(self, precision: str) -> Self:
        """These bounds, with a precision's defaults where nothing was given.

        Args:
            precision: What the graph is.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**type(self).for_precision(precision).model_dump(), **given})
