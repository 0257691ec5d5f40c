"""Numbers and metrics as a report says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

METRICS: Mapping[str, tuple[str, str]] = {
    "quadratic_kappa": (
        "Quadratic kappa",
        "agreement of the grades beyond chance; far misses weigh more; 1 is best",
    ),
    "auroc": ("AUROC", "how often an image with it scores above one without it; 0.5 is chance, 1 is perfect"),
    "auprc": ("AUPRC", "mean precision over all recalls; chance is the share of the class"),
    "accuracy": ("Accuracy", "share of the most probable answers that are right"),
    "balanced_accuracy": ("Balanced accuracy", "the same with every class counting alike"),
    "sensitivity_at_90_specificity": (
        "Sensitivity at 90 % specificity",
        "share found of those with it, where at most one in ten without it is flagged",
    ),
    "sensitivity_at_95_specificity": ("Sensitivity at 95 % specificity", "the same, where at most one in twenty is"),
    "brier": ("Brier score", "squared error of the probabilities; 0 is perfect"),
    "ece": ("Calibration error (ECE)", "how far probabilities are from what is found; 0 is perfect"),
    "dice": ("Dice", "overlap of the mask with the drawn one, mean over the images; 1 is perfect"),
    "jaccard": ("Jaccard", "overlap by union, mean over the images; 1 is perfect"),
    "least_dice": ("Dice of the worst image", "the least of all images"),
    "cross_entropy": ("Cross-entropy", "of the pixels' probabilities; 0 is perfect"),
}
"""What people call the metrics of an evaluation, and what they say, by their names in `metrics.json`."""

NOTHING = "-"


def title_of(metric: str) -> str:
    """What people call a metric."""
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def number(value: float | None, digits: int = 3) -> str:
    """With so many decimals."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def between(interval: Sequence[float] | None, digits: int = 3) -> str:
    """An interval."""
    return NOTHING if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """A value with its interval, as far as there is one."""
    return number(value) if interval is None else f"{number(value)} ({between(interval)})"


def metric_of(metrics: Mapping[str, Any], name: str) -> str:
    """A metric of an evaluation with its interval."""
    return with_interval(metrics.get(name), metrics.get(f"{name}_interval"))


def millions(count: int) -> str:
    """Parameters, or multiply-adds in millions, in three digits and plain."""
    value = count / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def megabytes(count: int) -> str:
    """Bytes, in millions of them."""
    return f"{count / 1e6:.2f} MB"


def of_patients(images: int, patients: int | None) -> str:
    """So many images, of so many patients where they are known."""
    return f"{images:,} test images" + (f" of {patients:,} patients" if patients else "")
