"""What a layer's filters answer to: inputs made to raise a filter's mean output (paper, appendix E and Fig. 9).

Gradient ascent from noise, the picture moved a little at every step and kept smooth by its total variation, so that no
single pixel carries the answer. A network that takes any size makes small pictures, which is as telling and quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttl_deploy.analysis.analyses import ANALYSES, of_a_run
from ttl_deploy.analysis.analyses.filters import pictures
from ttl_deploy.analysis.finding import Finding, Grids, Table
from ttl_deploy.analysis.networks import parted
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.spec import PreprocessSpec
from ttl_deploy.zoo import BACKBONES

FILTERS = 9
"""Of a layer."""
LAYERS = 5
"""Most of them; the paper shows five."""
STEPS = 64
RATE = 0.08
SMOOTHNESS = 0.3
SIDE = 112
"""Pixels, where the network does not decide."""
SLICES = 16

Answers = Callable[[Tensor], Tensor]
"""Images (N, C, *size) to the mean output (N,) of the filter that is sought by each."""


def look(subject: Subject) -> Finding:
    """Of `FILTERS` filters drawn at random in each of at most `LAYERS` layers, from the stem to the top."""
    cuts, size = layers_of(subject), size_of(subject)
    generator = torch.Generator().manual_seed(subject.asked.seed)
    rows: list[tuple[object, ...]] = []
    grids: list[tuple[str, NDArray[np.float64]]] = []
    with subject.reporter.task("what filters answer to", len(cuts) * STEPS) as advance:
        for cut in cuts:
            filters, answers = _sought(subject, cut, size, generator)
            start = torch.randn(len(filters), subject.config.preprocess.input.channels, *size, generator=generator)
            made, before, after = raised(answers, start, subject.config.preprocess, generator, advance)
            rows += zip([cut] * len(filters), filters, before, after, strict=True)
            grids.append((f"after {cut}", pictures(made)))
    return Finding(
        _sentence(cuts, rows),
        {"": Table.of(("cut", "filter", "noise", "reached"), rows)},
        {"": Grids(tuple(grids))},
        {"steps": STEPS, "size": "x".join(map(str, size))},
        {"": "Pictures that filters answer to"},
    )


def layers_of(subject: Subject) -> tuple[str, ...]:
    """The stem and the ends of the blocks; of more than `LAYERS`, as many as evenly spaced as they can be."""
    own = tuple(dict.fromkeys((subject.cuts[0], *subject.ends)))
    places = np.linspace(0, len(own) - 1, min(LAYERS, len(own))).round().astype(int)
    return tuple(own[place] for place in places)


def size_of(subject: Subject) -> tuple[int, ...]:
    """Of the pictures: the network's, or less where it takes any."""
    own = tuple(subject.config.model.input.size)
    least = tuple(min(side, SIDE) for side in own[-2:])
    smaller = (*(min(side, SLICES) for side in own[:-2]), *least)
    backbone = BACKBONES.get(subject.config.model.backbone)
    return smaller if backbone.at(smaller) is backbone else own


def _sought(subject: Subject, cut: str, size: Sequence[int], generator: torch.Generator) -> tuple[list[int], Answers]:
    """Channels drawn at random after a cut, and what they answer."""
    model = subject.trained.cpu().eval()
    backbone = BACKBONES.get(subject.config.model.backbone)
    below, _above = parted(model, cut)
    with torch.no_grad():
        channels = backbone.with_channels_first(below(torch.zeros(1, model.spec.input.channels, *size))).shape[1]
    chosen = torch.randperm(channels, generator=generator)[:FILTERS].sort().values

    def answers(images: Tensor) -> Tensor:
        means = backbone.with_channels_first(below(images)).flatten(2).mean(2)
        return means[torch.arange(len(images)), chosen]

    return chosen.tolist(), answers


def raised(
    answers: Answers,
    start: Tensor,
    rule: PreprocessSpec,
    generator: torch.Generator,
    advance: Callable[[float, str], None] = lambda _steps, _status: None,
) -> tuple[NDArray[np.float64], list[float], list[float]]:
    """Pictures that raise answers, and the answers to noise and to them.

    Args:
        answers: To images as the network takes them.
        start: (N, C, *size) normal noise.
        rule: How pixels are normalised.
        generator: Of the movements.
        advance: Told of every step.

    Returns:
        (N, C, *size) pixels, 0 to 1; and (N,) twice.
    """
    shape = (-1, *(1,) * (start.ndim - 2))
    mean, std = (torch.tensor(numbers, dtype=torch.float32).reshape(shape) for numbers in (rule.mean, rule.std))
    inside = (0.3 * start).requires_grad_()
    climb = torch.optim.Adam([inside], RATE)
    axes = tuple(range(2, start.ndim))

    def seen() -> Tensor:
        return (torch.sigmoid(inside) - mean) / std

    with torch.no_grad():
        before = answers(seen())
    unit = before.abs().mean().clamp_min(1e-6)
    for _ in range(STEPS):
        moved = torch.roll(seen(), _movement(start.shape[2:], generator), axes)
        gain = answers(moved)
        # By its own size, so that smoothness weighs the same in every layer and at every step.
        loss = SMOOTHNESS * total_variation(torch.sigmoid(inside)).sum() - (gain / (gain.detach().abs() + unit)).sum()
        (inside.grad,) = torch.autograd.grad(loss, inside)
        climb.step()
        advance(1, "")
    with torch.no_grad():
        after = answers(seen())
    return torch.sigmoid(inside).detach().double().numpy(), before.tolist(), after.tolist()


def total_variation(images: Tensor) -> Tensor:
    """(N,) the mean difference of neighbours, summed over the axes of (N, C, *size)."""
    return torch.stack([images.diff(dim=axis).abs().flatten(1).mean(1) for axis in range(2, images.ndim)]).sum(0)


def _movement(size: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
    """By up to a sixteenth of each axis, in any direction."""
    most = [side // 16 for side in size]
    return tuple(int(torch.randint(-by, by + 1, (1,), generator=generator)) for by in most)


def _sentence(cuts: Sequence[str], rows: Sequence[tuple[object, ...]]) -> str:
    told = []
    for cut in cuts:
        own = np.array([row[2:] for row in rows if row[0] == cut], dtype=np.float64)
        before, after = np.median(own, axis=0)
        told.append(f"{before:.2g} to {after:.2g} after {cut}")
    return f"The median filter's mean output, from noise to the picture made for it: {', '.join(told)}."


ANALYSES.register("features", of_a_run(look))
