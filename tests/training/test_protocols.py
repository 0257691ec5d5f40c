"""Optimizers, schedules, stopping, and a head that learns first: each does what its definition says, resumed too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import MODEL, PROTOCOL, but
from torch import nn

from ttl_deploy.cli.main import run as cli
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data, ModelSpec, Protocol
from ttl_deploy.spec.protocol import HeadSpec, OptimSpec, ScheduleSpec
from ttl_deploy.spec.training import Recipe
from ttl_deploy.training.optimizers import OPTIMIZERS
from ttl_deploy.training.pace import Pace, drop_before_last
from ttl_deploy.training.run import Run
from ttl_deploy.training.schedules import SCHEDULES
from ttl_deploy.training.train import check, load_model, resume, starting_model, train
from ttl_deploy.transfer import build
from ttl_deploy.zoo import BACKBONES

STEM = but(MODEL, cut="stem")
SGD = {"optim": {"name": "sgd", "momentum": 0.9}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    place = tmp_path_factory.mktemp("set")
    images = write_synthetic(place / "data", images=60, size=32, seed=1)
    return Data(path=images / "labels.csv", cache=place / "cache")


def after(data: Data, folder: Path, **changes: Any) -> Run:
    return train(data, STEM, but(PROTOCOL, **changes), folder)


def same(first: Run, second: Run) -> bool:
    ours, theirs = load_file(first.weights), load_file(second.weights)
    return first.history() == second.history() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "protocol",
    [
        {"schedule": {"name": "cosine", "warmup_steps": 5}},
        {"optim": {"name": "adamw", "weight_decay": 0.1, "rate_new": 3e-3}, "patience": 0, "learning_rate": 3e-2},
        {**SGD, "schedule": {"name": "cosine"}, "learning_rate": 0.1},
        {"optim": {"name": "sgd", "clip": 0.1}, "schedule": {"name": "constant", "warmup_steps": 9}},
        {
            "head_training": {"freeze_first": 2, "freeze_rate": 1e-2, "dropout": 0.5},
            "schedule": {"monitor": "loss", "warmup_steps": 3},
        },
    ],
)
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(
    protocol: dict[str, Any], data: Data, tmp_path: Path
) -> None:
    """Ended after every second epoch, once within the epochs of the head alone and once after them."""
    whole = after(data, tmp_path / "whole", epochs=5, **protocol)
    recipe = but(PROTOCOL, epochs=5, **protocol)
    folder = tmp_path / "parts"
    train(data, STEM, recipe, folder, finish=False, judge=lambda rows: "now" if len(rows) == 1 else None)
    resume(folder, cache=data.cache, finish=False, judge=lambda rows: "now" if len(rows) == 3 else None)
    assert same(resume(folder, cache=data.cache), whole)


def test_records_of_the_papers_protocol_are_not_written(data: Data, tmp_path: Path) -> None:
    run = after(data, tmp_path / "run", epochs=1, optim=OptimSpec(), schedule=ScheduleSpec(), head_training=HeadSpec())
    text = (run.folder / "config.yaml").read_text()
    assert not [name for name in ("optim", "schedule", "head_training", "monitor") if name in text]
    other = after(data, tmp_path / "other", epochs=1, **SGD)
    assert "optim:\n  name: sgd\n" in (other.folder / "config.yaml").read_text()
    assert other.config.optim.momentum == 0.9


def test_a_cosine_is_one(data: Data, tmp_path: Path) -> None:
    run = after(
        data, tmp_path / "run", epochs=6, schedule={"name": "cosine"}, learning_rate=1e-2, min_learning_rate=1e-4
    )
    rates = [row["learning_rate"] for row in run.history()]
    np.testing.assert_allclose(rates, 1e-4 + (1e-2 - 1e-4) * (1 + np.cos(np.pi * np.arange(6) / 6)) / 2)


def test_a_constant_rate_is_one_and_a_patience_ends_it(data: Data, tmp_path: Path) -> None:
    schedule = {"name": "constant", "stop_patience": 2, "monitor": "auroc"}
    run = after(data, tmp_path / "run", epochs=None, schedule=schedule, learning_rate=0.1, min_learning_rate=1.0)
    history = run.history()
    assert {row["learning_rate"] for row in history} == {0.1}
    best = max(range(len(history)), key=lambda index: (history[index]["val_auroc"], -index))
    assert len(history) == best + 1 + 2
    assert run.metrics()["best_epoch"] == best + 1
    assert run.metrics()["stopped"] == "no better validation AUROC for 2 epochs"


def test_of_a_monitored_loss_the_least_is_the_best_and_a_plateau(data: Data, tmp_path: Path) -> None:
    protocol = {"epochs": 7, "learning_rate": 0.3, "patience": 0, "schedule": {"monitor": "loss"}}
    history = after(data, tmp_path / "run", **protocol).history()
    losses = [row["val_loss"] for row in history]
    assert [row["best"] for row in history] == [
        loss < min(losses[:i], default=math.inf) for i, loss in enumerate(losses)
    ]
    assert not all(row["best"] for row in history)
    rate = 0.3
    for i, row in enumerate(history):
        assert row["learning_rate"] == pytest.approx(rate)
        rate *= 1.0 if losses[i] < min(losses[:i], default=math.inf) * (1 - 1e-4) else 0.5


def test_a_warm_up_rises_by_equal_steps_and_leaves_the_schedules_rate() -> None:
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [one], "lr": 1.0}, {"params": [other], "lr": 0.1}])
    recipe = Recipe(schedule=ScheduleSpec(warmup_steps=6), head_training=HeadSpec(freeze_first=1))
    rates = []
    for epoch in (1, 2, 3, 4):
        with Pace(recipe, optimizer, epoch, 4) as pace:
            for step in (1, 2, 3, 4):
                pace.at(step)
                rates.append([group["lr"] for group in optimizer.param_groups])
        assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.1]
    head = np.array(rates)[:, 0]
    np.testing.assert_allclose(head, [1] * 4 + [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6] + [1] * 7)
    np.testing.assert_allclose(np.array(rates)[:, 1], head / 10)


def test_a_clipped_step_of_descent_is_as_long_as_the_clip_allows(data: Data, tmp_path: Path) -> None:
    """38 training images in batches of 16 are 3 steps, each at most the rate times the norm long."""
    moved = {}
    for name, clip in (("clipped", 1e-2), ("free", None)):
        protocol = {"epochs": 1, "learning_rate": 0.5, "optim": {"name": "sgd", "clip": clip}}
        run = after(data, tmp_path / name, **protocol)
        begun, ended = starting_model(run), load_model(run)
        pairs = zip(begun.parameters(), ended.parameters(), strict=True)
        moved[name] = math.sqrt(sum(float((one - other).detach().square().sum()) for one, other in pairs))
    assert moved["clipped"] <= 3 * 0.5 * 1e-2 * 1.001
    assert moved["clipped"] > 0.5 * 1e-2 * 0.5
    assert moved["free"] > 10 * moved["clipped"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (OptimSpec(name="sgd", weight_decay=0.5), [2 - 0.1 * (1 + 0.5 * 2)]),
        (OptimSpec(name="sgd", momentum=0.9), [2 - 0.1, 2 - 0.1 - 0.1 * 1.9]),
        (OptimSpec(name="sgd", momentum=0.9, dampening=0.9), [2 - 0.1, 2 - 0.1 - 0.1 * (0.9 + 0.1)]),
        (OptimSpec(name="adam"), [2 - 0.1]),
        (OptimSpec(name="adamw", weight_decay=0.5), [2 * (1 - 0.1 * 0.5) - 0.1]),
    ],
)
def test_an_optimizer_moves_a_weight_as_by_hand(spec: OptimSpec, expected: list[float]) -> None:
    """A weight of 2 with the gradient 1 and the rate 0.1; Adam's first step is the rate itself."""
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = OPTIMIZERS.get(spec.name).make([{"params": [weight], "lr": 0.1}], spec)
    for value in expected:
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert float(weight.detach()) == pytest.approx(value, rel=1e-6)
    state = next(iter(optimizer.state.values()), {})
    kind = OPTIMIZERS.get(spec.name)
    assert {*kind.moments(spec), *(["step"] if kind.counts else [])} == {k for k, v in state.items() if v is not None}


def test_weights_that_start_at_random_have_a_rate_of_their_own() -> None:
    spec = ModelSpec(backbone="resnet18", method="tf", cut="layer3", classes=("a", "b"))
    model = build(spec)
    groups = {group["lr"]: {id(p) for p in group["params"]} for group in model.parameter_groups(0.1, 0.01)}
    slimmed = [p for unit in model.plan.slimmed for p in model.unit(unit).parameters()]
    assert groups[0.01] == {id(p) for p in (*model.head.parameters(), *slimmed)}
    assert groups[0.1] == {id(p) for unit in model.plan.reused for p in model.unit(unit).parameters()}
    assert model.parameter_groups(0.1, 0.01)[0]["lr"] == 0.01, "the head's is the first"
    lwft = build(ModelSpec(backbone="resnet18", method="lwft", layers=2, classes=("a", "b")))
    units = BACKBONES.get("resnet18").all_units
    assert [g["lr"] for g in lwft.parameter_groups(0.1, 0.5)] == pytest.approx([0.5, 0.01])
    assert [g["lr"] for g in lwft.parameter_groups(0.1, 0.5, units)] == pytest.approx([0.5, 0.05])


def test_layers_that_an_initialisation_draws_are_new(data: Data, tmp_path: Path) -> None:
    run = after(data, tmp_path / "source", epochs=1)
    model = but(MODEL, weights=str(run.folder), init="weights:stem+stats")
    quiet = {"optim": {"name": "sgd", "rate_new": 1e-30}, "epochs": 1, "learning_rate": 0.1}
    trained = train(data, model, but(PROTOCOL, **quiet), tmp_path / "run")
    begun, ended = starting_model(trained).network_state(), load_model(trained).network_state()
    assert torch.equal(begun["layer1.0.conv1.weight"], ended["layer1.0.conv1.weight"])
    assert torch.equal(begun["head.fc.weight"], ended["head.fc.weight"])
    assert not torch.equal(begun["conv1.weight"], ended["conv1.weight"])


def test_at_first_the_head_learns_alone_and_then_all_does(data: Data, tmp_path: Path) -> None:
    head = {"freeze_first": 1, "freeze_rate": 0.05}
    recipe = but(PROTOCOL, epochs=2, head_training=head, schedule={"monitor": "loss"})
    run = train(data, STEM, recipe, tmp_path / "run", judge=lambda rows: "now" if len(rows) == 1 else None)
    begun, then = starting_model(run).network_state(), load_model(run).network_state()
    changed = {name for name in begun if not torch.equal(begun[name], then[name])}
    assert changed == {"head.fc.weight", "head.fc.bias"}
    assert run.history()[0]["learning_rate"] == 0.05
    ended = resume(run.folder, cache=data.cache, finish=False)
    assert ended.history()[1]["learning_rate"] == PROTOCOL.learning_rate
    last = torch.load(run.folder / "last.ckpt", weights_only=True)["model"]
    assert not torch.equal(last["units.stem.conv1.weight"], begun["conv1.weight"])
    assert not torch.equal(last["units.stem.bn1.running_mean"], begun["bn1.running_mean"])


def test_dropout_is_before_the_last_layer_in_training_only_and_stays_out_of_the_model(
    data: Data, tmp_path: Path
) -> None:
    head = build(ModelSpec(backbone="resnet18", method="ttl", cut="stem", classes=("a", "b"))).head
    nn.init.ones_(head.fc.weight), nn.init.zeros_(head.fc.bias)  # type: ignore[union-attr,arg-type]
    names = set(head.state_dict())
    drop_before_last(head, 0.5)
    features = torch.ones(4000, 64, 1, 1)
    torch.manual_seed(0)
    kept = head.train()(features)[:, 0].detach() / 2
    assert float(kept.mean()) == pytest.approx(32, abs=0.3), "binomial of 64 and a half"
    assert float(kept.std()) == pytest.approx(4, abs=0.3)
    assert (head.eval()(features) == 64).all()
    assert set(head.state_dict()) == names
    run = after(data, tmp_path / "run", epochs=1, head_training={"dropout": 0.5})
    assert not any(module._forward_pre_hooks for module in load_model(run).modules())
    assert run.history() != after(data, tmp_path / "without", epochs=1).history()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim": {"name": "lion"}}, "unknown optimizer 'lion'"),
        ({"optim": {"momentum": 0.9}}, "--momentum is not adam's; leave it out, or pass --optimizer sgd"),
        ({"optim": {"name": "sgd", "dampening": 0.9}}, "--dampening is of a momentum"),
        ({"schedule": {"name": "step"}}, "unknown schedule 'step'"),
        ({"schedule": {"name": "cosine"}, "epochs": None}, "--schedule cosine needs to know how many epochs"),
        ({"schedule": {"name": "constant"}, "epochs": None}, "with --schedule constant nothing ends the training"),
        ({"schedule": {"monitor": "accuracy"}}, "--monitor: --task multiclass is not monitored by 'accuracy'; .*loss"),
        ({"schedule": {"monitor": "quadratic_kappa"}}, "--task multiclass is not monitored by 'quadratic_kappa'"),
        ({"head_training": {"freeze_first": 3}}, "--freeze-first 3 leaves none of 3 epochs"),
    ],
)
def test_a_protocol_that_cannot_be_is_one_line_before_data_is_read(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=said) as told:
        check(Data(path=tmp_path / "nothing.csv"), MODEL, but(PROTOCOL, **changes))
    assert "\n" not in str(told.value)


def test_a_schedule_over_all_epochs_is_not_lengthened(data: Data, tmp_path: Path) -> None:
    run = after(data, tmp_path / "run", epochs=2, schedule={"name": "cosine"})
    with pytest.raises(BadInputError, match=r"its rate falls over 2 epochs \(cosine\), which cannot become 3"):
        resume(run.folder, epochs=3, cache=data.cache)
    assert resume(run.folder, epochs=2, cache=data.cache).history() == run.history()


def test_a_search_refuses_a_schedule_over_all_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli(["search", str(tmp_path / "no.csv"), "--schedule", "cosine", "--weights", "random", "--out", "x"])
    assert code == 2
    assert "--schedule cosine depends on them" in capsys.readouterr().err


def test_the_command_line_says_it_all(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    model = ["--backbone", "resnet18", "--cut", "stem", "--weights", "random", "--image-size", "32"]
    how = ["--epochs", "2", "--batch-size", "16", "--device", "cpu", "--precision", "fp32", "--cache", str(data.cache)]
    asked = "--optimizer SGD --momentum 0.9 --dampening 0.5 --weight-decay 1e-3 --clip-norm 1 --rate-new 0.01 "
    asked += "--schedule cosine --warmup-steps 4 --monitor auroc --stop-patience 5 "
    asked += "--dropout 0.2 --freeze-first 1 --freeze-rate 0.02"
    assert cli(["train", str(data.path), *model, *how, *asked.split(), "--out", str(out)]) == 0
    capsys.readouterr()
    config = Run(out, read(out)).config
    assert config.optim == OptimSpec(
        name="sgd", rate_new=0.01, weight_decay=1e-3, momentum=0.9, dampening=0.5, clip=1.0
    )
    assert config.schedule == ScheduleSpec(name="cosine", warmup_steps=4, monitor="auroc", stop_patience=5)
    assert config.head_training == HeadSpec(dropout=0.2, freeze_first=1, freeze_rate=0.02)
    again = tmp_path / "again"
    assert cli(["train", "--config", str(out / "config.yaml"), "--cache", str(data.cache), "--out", str(again)]) == 0
    assert (again / "config.yaml").read_bytes() == (out / "config.yaml").read_bytes()
    assert (again / "best.safetensors").read_bytes() == (out / "best.safetensors").read_bytes()


def read(folder: Path) -> Any:
    from ttl_deploy.training.run import open_run

    return open_run(folder).config


def test_every_optimizer_and_schedule_of_the_tables_is_resumed_above() -> None:
    assert (set(OPTIMIZERS.names()), set(SCHEDULES.names())) == (
        {"adam", "adamw", "sgd"},
        {"plateau", "cosine", "constant"},
    )


def test_the_default_is_the_papers() -> None:
    recipe = Protocol()
    assert (recipe.optim.name, recipe.schedule.name, recipe.schedule.monitor) == ("adam", "plateau", None)
    assert not (recipe.optim.weight_decay or recipe.head_training.dropout or recipe.schedule.warmup_steps)
