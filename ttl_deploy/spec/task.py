"""What a classifier's outputs mean, and from which probability on it says yes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from ttl_deploy.spec.record import Record
from ttl_deploy.spec.said import Said

_RULE = re.compile(r"youden|(?:(?:sensitivity|specificity)=)?(?:0?\.[0-9]+|1(?:\.0*)?)")


def _known(rule: str) -> str:
    words = rule.strip().casefold()
    if not _RULE.fullmatch(words):
        raise ValueError("is youden, sensitivity=0.95, specificity=0.9 or a probability such as 0.3")
    if words.startswith("1"):
        raise ValueError("is a probability below 1, or nothing is ever positive")
    return words


class TaskSpec(Record):
    """What the outputs of a model mean.

    Attributes:
        kind: Name of the task: `multiclass`, `ordinal`, `multilabel`, `segmentation`, or another package's.
        positive_from: Of grades, the first that counts as positive.
    """

    kind: str = "multiclass"
    positive_from: str | None = Field(default=None, exclude_if=lambda name: name is None)

    def __str__(self) -> str:
        return self.kind if self.positive_from is None else f"{self.kind} (positive from {self.positive_from})"

    @property
    def fewest_classes(self) -> int:
        """Exclusive classes are at least two."""
        return 2 if self.kind in ("multiclass", "ordinal") else 1


OperatingRule = Annotated[str, AfterValidator(_known)]

AskedPoint = Annotated[
    str | None,
    AfterValidator(lambda rule: None if rule is None else _known(rule)),
    Field(
        description="Two classes: what the second is said from. youden: the most of sensitivity and specificity "
        "together. sensitivity=0.95 or specificity=0.9: at least that, and the most of the other. 0.3: that "
        "probability. Chosen on the validation images, reported on the test images.",
        exclude_if=lambda rule: rule is None,
    ),
    Said(default="the more probable class"),
]
"""A rule that a user asks for, or None; left out of what is written where it is None."""


class OperatingPoint(Record):
    """Where a classifier begins to say the positive one of two.

    Attributes:
        rule: How it was chosen.
        threshold: The probability of the positive one from which on it is said.
    """

    rule: OperatingRule
    threshold: float = Field(ge=0, le=1)

    def __str__(self) -> str:
        return f"{self.threshold:.4f} ({self.rule})"

    @property
    def told(self) -> str:
        """For another program: the threshold to its last digit, a space and the rule."""
        return f"{self.threshold!r} {self.rule}"
