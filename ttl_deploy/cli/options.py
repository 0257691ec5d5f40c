"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttl_deploy.parity import Bounds


def bounds_of(
    precision: str,
    auroc: float | None,
    auprc: float | None,
    agreement: float | None,
    logit_difference: float | None = None,
    calibration_shift: float | None = None,
    preset: str = "default",
) -> Bounds:
    """The bounds of a preset for a precision, with the user's in their place.

    Args:
        precision: Of the artifact.
        auroc: `max_auroc_drop`; None: the preset's, as for all that follow.
        auprc: `max_auprc_drop`.
        agreement: `min_label_agreement`.
        logit_difference: `max_logit_difference`.
        calibration_shift: `max_calibration_shift`.
        preset: Name of the preset.

    Raises:
        BadInputError: A bound is out of range, or the preset is unknown.
    """
    from ttl_deploy.parity import Bounds
    from ttl_deploy.spec import make_record

    given = {
        "max_auroc_drop": auroc,
        "max_auprc_drop": auprc,
        "min_label_agreement": agreement,
        "max_logit_difference": logit_difference,
        "max_calibration_shift": calibration_shift,
    }
    defaults = Bounds.preset(preset, precision).model_dump()
    return make_record(Bounds, **{**defaults, **{k: v for k, v in given.items() if v is not None}})
