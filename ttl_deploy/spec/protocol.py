"""What of a training may differ from the paper's protocol: optimiser, schedule, and how the head is trained.

The rates that the paper names are fields of `Recipe` itself: the base rate, the plateau's patience and factor, and the
rate below which training ends. Everything here is left out of files where it is as the paper has it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from ttl_deploy.spec.record import Record
from ttl_deploy.spec.said import Said

_PANEL = "Optimizer, schedule and stopping"


def _word(given: Any) -> Any:
    return given.strip().casefold() if isinstance(given, str) else given


class OptimSpec(Record):
    """How weights are moved.

    Attributes:
        name: Of `OPTIMIZERS`.
        rate_new: Base rate of the weights that start at random: the head, what TF slims, and what the initialisation
            does not copy. None: as the others.
        weight_decay: As the optimizer has it: L2 in adam and sgd, decoupled in adamw.
        momentum: Of sgd.
        dampening: Of sgd's momentum.
        clip: Largest norm of all gradients together; None: any.
    """

    PANEL: ClassVar[str] = _PANEL

    name: Annotated[
        str, BeforeValidator(_word), Field(description="adam, adamw or sgd."), Said(("--optimizer", "--optimiser"))
    ] = "adam"
    rate_new: Annotated[
        float | None,
        Field(gt=0, le=3e38, description="Base rate of weights that start at random: head, slimmed and drawn layers."),
        Said(default="--learning-rate"),
    ] = None
    weight_decay: Annotated[
        float, Field(ge=0, le=3e38, description="L2 penalty of adam and sgd; adamw's decoupled decay.")
    ] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="sgd: momentum.")] = 0.0
    dampening: Annotated[float, Field(ge=0, le=1, description="sgd: dampening of the momentum.")] = 0.0
    clip: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="Largest norm of the gradients, to which larger ones are scaled."),
        Said(("--clip-norm",), default="none"),
    ] = None


class ScheduleSpec(Record):
    """How the rate changes, and what the validation side is watched by.

    Attributes:
        name: Of `SCHEDULES`.
        warmup_steps: Steps in which the rate rises linearly to what the schedule says.
        monitor: `loss` or a metric of the task: chooses the best epoch, and a plateau is one of it. None: what the
            task selects by.
        stop_patience: Epochs without a better value after which training ends; None: no such end.
    """

    PANEL: ClassVar[str] = _PANEL

    name: Annotated[
        str,
        BeforeValidator(_word),
        Field(
            description="plateau: times --factor after --patience epochs without a better validation value. cosine: "
            "falls to --min-learning-rate over all --epochs. constant."
        ),
        Said(("--schedule",)),
    ] = "plateau"
    warmup_steps: Annotated[int, Field(ge=0, description="Steps in which the rate first rises linearly.")] = 0
    monitor: Annotated[
        str | None,
        BeforeValidator(_word),
        Field(description="What chooses the best epoch on the validation side: loss or a metric of the task."),
        Said(default="auprc; ordinal: quadratic_kappa"),
    ] = None
    stop_patience: Annotated[
        int | None,
        Field(ge=1, description="Training ends after this many epochs without a better validation value."),
        Said(default="no such end"),
    ] = None


class HeadSpec(Record):
    """How the head is trained beside the layers below.

    Attributes:
        dropout: Probability with which an input of the head's last layer is dropped in training.
        freeze_first: Epochs in which the head alone learns, before all that the method trains does.
        freeze_rate: The rate of these epochs; None: what the head's rate is afterwards.
    """

    PANEL: ClassVar[str] = _PANEL

    dropout: Annotated[float, Field(ge=0, lt=1, description="Dropout before the head's last layer, in training.")] = 0.0
    freeze_first: Annotated[
        int, Field(ge=0, description="Epochs, of --epochs, in which the head alone learns; then the rest does too.")
    ] = 0
    freeze_rate: Annotated[
        float | None,
        Field(gt=0, le=3e38, description="Rate of the epochs of --freeze-first."),
        Said(default="the head's rate"),
    ] = None
