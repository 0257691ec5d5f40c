"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttl_deploy.parity import Bounds


def bounds_of(precision: str, auroc: float | None, auprc: float | None, agreement: float | None) -> Bounds:
    """The default bounds of a precision, with the user's in their place.

    Raises:
        BadInputError: A bound is out of range.
    """
    from ttl_deploy.parity import Bounds
    from ttl_deploy.spec import make_record

    given = {"max_auroc_drop": auroc, "max_auprc_drop": auprc, "min_label_agreement": agreement}
    defaults = Bounds.for_precision(precision).model_dump()
    return make_record(Bounds, **{**defaults, **{k: v for k, v in given.items() if v is not None}})
