"""A small search: a network of the zoo with few cuts, cut out of ResNet-18, on the synthetic images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from ttl_deploy.spec import Data
from ttl_deploy.spec.search import SearchOptions


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates without their multiply-adds, which take seconds to count where there are many."""

    def parameters_alone(model: nn.Module, _shape: Sequence[int]) -> SimpleNamespace:
        numbers = [p.numel() for p in model.parameters()]
        trainable = [p.numel() for p in model.parameters() if p.requires_grad]
        return SimpleNamespace(parameters=sum(numbers), macs=0, trainable=sum(trainable))

    monkeypatch.setattr("ttl_deploy.cut_search.candidates.count", parameters_alone)


@pytest.fixture
def data(synthetic: Path, pixel_cache: Path) -> Data:
    return Data(path=synthetic / "labels.csv", cache=pixel_cache)


@pytest.fixture
def options_of() -> Callable[..., SearchOptions]:
    """Options that measure no latency, use one thread and are content with one division."""

    def make(**fields: Any) -> SearchOptions:
        return SearchOptions(**{"latency": False, "threads": 1, "divisions": 1, **fields})

    return make
