"""A small search: a network of the zoo with few cuts, cut out of ResNet-18, on the synthetic images."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from ttl_deploy.search.options import SearchOptions
from ttl_deploy.training.train import DataOptions, Request

REQUEST = Request(
    backbone="resnet18",
    method="ttl",
    image_size=32,
    weights="random",
    device="cpu",
    precision="fp32",
    settings={"epochs": 2, "batch_size": 16, "learning_rate": 1e-3},
)


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates without their multiply-adds, which take seconds to count where there are many."""

    def parameters_alone(model: nn.Module, _shape: Sequence[int]) -> SimpleNamespace:
        numbers = [p.numel() for p in model.parameters()]
        trainable = [p.numel() for p in model.parameters() if p.requires_grad]
        return SimpleNamespace(parameters=sum(numbers), macs=0, trainable=sum(trainable))

    monkeypatch.setattr("ttl_deploy.search.candidates.count", parameters_alone)


@pytest.fixture
def data(synthetic: Path, pixel_cache: Path) -> DataOptions:
    return DataOptions(synthetic / "labels.csv", cache=pixel_cache)


@pytest.fixture
def request_of() -> Callable[..., Request]:
    """The request with other settings or fields."""

    def make(settings: dict[str, Any] | None = None, **fields: Any) -> Request:
        return replace(REQUEST, settings={**(REQUEST.settings or {}), **(settings or {})}, **fields)

    return make


@pytest.fixture
def options_of() -> Callable[..., SearchOptions]:
    """Options that measure no latency, use one thread and are content with one division."""

    def make(**fields: Any) -> SearchOptions:
        return SearchOptions(**{"latency": False, "threads": 1, "divisions": 1, **fields})

    return make
