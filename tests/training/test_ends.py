"""How a training may end before its time and go on later: not evaluated, lengthened, or judged hopeless."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import MODEL, PROTOCOL, but

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data
from ttl_deploy.training.run import finished_run
from ttl_deploy.training.train import resume, train

STEM = but(MODEL, cut="stem")
LONG = but(PROTOCOL, epochs=9, learning_rate=3e-2, patience=0)


@pytest.fixture
def data(synthetic: Path, pixel_cache: Path) -> Data:
    return Data(path=synthetic / "labels.csv", cache=pixel_cache)


def test_a_run_lengthened_twice_is_the_undivided_run_rate_and_best_epoch_included(data: Data, tmp_path: Path) -> None:
    """What successive halving rests on: neither the plateau schedule nor the best epoch knows of the limit."""
    whole = train(data, STEM, LONG, tmp_path / "whole")
    parts = train(data, STEM, but(LONG, epochs=3), tmp_path / "parts", finish=False)
    with pytest.raises(BadInputError, match="is not finished"):
        finished_run(parts.folder)
    resume(parts.folder, epochs=5, cache=data.cache, finish=False)
    parts = resume(parts.folder, epochs=9, cache=data.cache)
    assert parts.history() == whole.history()
    ours, theirs = load_file(parts.weights), load_file(whole.weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    halved = [row["epoch"] for row in whole.history() if row["learning_rate"] < 3e-2]
    assert halved, "the rate must have fallen for this test to say something"


def test_a_judge_ends_a_training_which_is_then_evaluated(data: Data, tmp_path: Path) -> None:
    run = train(data, STEM, LONG, tmp_path / "run", judge=lambda history: "enough" if len(history) == 2 else None)
    assert run.metrics()["epochs"] == 2
    assert run.metrics()["stopped"] == "enough"
