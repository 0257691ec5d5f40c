"""Training end to end on a tiny synthetic set: protocol, files, resume, starting weights."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import MODEL, PROTOCOL, but
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ttl_deploy import files
from ttl_deploy.cli.main import run as cli
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.errors import (
    BadInputError,
    IntegrityError,
    MissingDependencyError,
    StorageError,
    TrainingError,
    WeightsError,
)
from ttl_deploy.progress import SILENT
from ttl_deploy.spec import Data, Protocol
from ttl_deploy.training.engine import resolve_device, resolve_precision
from ttl_deploy.training.run import finished_run, open_run, read_predictions
from ttl_deploy.training.series import train_incremental, train_series
from ttl_deploy.training.train import load_model, resume, train


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("set") / "data", images=60, size=32, seed=1)


@pytest.fixture
def data(images: Path, tmp_path: Path) -> Data:
    return Data(path=images / "labels.csv", cache=tmp_path / "cache")


def training(**changes: object) -> Protocol:
    return but(PROTOCOL, **changes)


def test_images_without_patients_are_not_counted_as_patients(images: Path, tmp_path: Path) -> None:
    run = train(Data(path=images, cache=tmp_path / "cache"), MODEL, but(PROTOCOL, epochs=1), tmp_path / "run")
    test = run.metrics()["test"]
    assert test["patients"] is None
    assert {single["patients"] for single in test["per_class"]} == {None}
    assert test["caution"] is None or "patients" not in test["caution"]


def test_a_run_holds_what_the_design_says(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, PROTOCOL, tmp_path / "run")
    names = {entry.name for entry in run.folder.iterdir()}
    assert names == {
        "config.yaml",
        "data.json",
        "split.csv",
        "history.jsonl",
        "timing.jsonl",
        "best.safetensors",
        "last.ckpt",
        "predictions.csv",
        "metrics.json",
    }
    history = run.history()
    assert [row["epoch"] for row in history] == [1, 2, 3]
    metrics = run.metrics()
    best = max(history, key=lambda row: row["val_auprc"])
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["images"]["test"] + metrics["images"]["val"] + metrics["images"]["train"] == 60
    assert open_run(run.folder).config == run.config


def test_a_run_whose_folder_is_removed_meanwhile_ends_with_one_line_and_leaves_nothing(
    data: Data, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def remove(history: Sequence[dict[str, Any]]) -> None:
        if len(history) == 2:
            shutil.rmtree(folder)

    with pytest.raises(TrainingError, match=r"run: was removed while it was trained; train it again"):
        train(data, MODEL, PROTOCOL, folder, judge=remove)
    assert not folder.exists()


def test_an_epoch_is_trained_while_the_one_before_it_is_written(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint is written once the second epoch has begun, and holds the first's weights all the same."""
    begun, kept, write = threading.Event(), dict[int, bytes](), files.write_bytes

    class Listener(type(SILENT)):  # type: ignore[misc]
        @contextmanager
        def task(self, description: str, total: float | None) -> Iterator[Any]:
            if description == "epoch 2":
                begun.set()
            yield lambda _steps, _status: None

    def late(path: Path, content: Any) -> None:
        if path.name == "last.ckpt":
            assert begun.wait(60)
            kept[len(kept) + 1] = bytes(content)
        write(path, content)

    train(data, MODEL, but(PROTOCOL, epochs=1), tmp_path / "one")
    monkeypatch.setattr(files, "write_bytes", late)
    train(data, MODEL, but(PROTOCOL, epochs=2), tmp_path / "two", reporter=Listener())
    one, first = torch.load(tmp_path / "one" / "last.ckpt"), torch.load(io.BytesIO(kept[1]))
    assert one["model"].keys() == first["model"].keys()
    assert all(torch.equal(tensor, first["model"][name]) for name, tensor in one["model"].items())


def test_a_disk_that_is_full_after_the_last_epoch_is_told(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_bytes

    def full(path: Path, content: Any) -> None:
        if path.name == "last.ckpt":
            raise StorageError("the disk is full", where=path)
        write(path, content)

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(StorageError, match=r"last\.ckpt: the disk is full"):
        train(data, MODEL, but(PROTOCOL, epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_predictions_are_the_fp32_models_and_metrics_are_theirs(data: Data, tmp_path: Path) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    run = train(data, MODEL, PROTOCOL, tmp_path / "run")
    test = read_predictions(run).side("test")
    positive = np.exp(test.logits[:, 1]) / np.exp(test.logits).sum(1)
    recorded = run.metrics()["test"]
    assert recorded["auroc"] == pytest.approx(roc_auc_score(test.labels, positive))
    assert recorded["auprc"] == pytest.approx(average_precision_score(test.labels, positive))
    with (run.folder / "split.csv").open() as handle:
        sides = {row["id"]: row["split"] for row in csv.DictReader(handle)}
    assert {sides[image] for image in test.ids} == {"test"}


def test_few_images_of_a_class_are_told_and_recorded(data: Data, tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener(type(SILENT)):  # type: ignore[misc]
        def warn(self, message: str) -> None:
            heard.append(message)

    metrics = train(data, MODEL, PROTOCOL, tmp_path / "run", reporter=Listener()).metrics()
    counts = [single["images"] for single in metrics["test"]["per_class"]]
    assert max(counts) < 10
    assert sum(counts) == metrics["images"]["test"]
    assert metrics["test"]["caution"].startswith(f"too few to rely on any metric: {counts[0]} images")
    assert f"test side: {metrics['test']['caution']}" in heard


def test_best_weights_use_the_networks_own_names(data: Data, tmp_path: Path) -> None:
    from torchvision import models

    run = train(data, MODEL, PROTOCOL, tmp_path / "run")
    ours = {k for k in load_file(run.weights) if not k.startswith("head.")}
    assert ours <= set(models.resnet18().state_dict())
    assert not any(name.startswith(("layer2", "layer3", "layer4")) for name in ours)


def test_training_again_gives_the_same_history(data: Data, tmp_path: Path) -> None:
    first, second = (train(data, MODEL, PROTOCOL, tmp_path / name) for name in ("a", "b"))
    assert (first.folder / "history.jsonl").read_bytes() == (second.folder / "history.jsonl").read_bytes()
    third = train(data, MODEL, training(seed=1), tmp_path / "c")
    assert third.history() != first.history()


def test_a_run_killed_at_any_moment_resumes_to_the_same_history(images: Path, tmp_path: Path) -> None:
    """The real thing: SIGKILL at three different moments of the same run, then the history of an undisturbed one."""

    def command(out: Path) -> list[str]:
        return [
            *[sys.executable, "-m", "ttl_deploy", "train", str(images / "labels.csv"), "--backbone", "resnet18"],
            *["--cut", "layer1.1", "--image-size", "32", "--weights", "random", "--device", "cpu"],
            *["--precision", "fp32", "--epochs", "12", "--batch-size", "8", "--lr", "1e-3"],
            *["--cache", str(tmp_path / "cache"), "--out", str(out)],
        ]

    assert cli(command(tmp_path / "whole")[3:]) == 0
    killed = tmp_path / "killed"
    arguments = command(killed)
    # In as many threads, so that sums are added in the same order.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for pause, wait_for in ((0.0, 2), (0.05, 5), (0.15, 8)):
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(arguments, env=environment, **silent) as child:
            while child.poll() is None and _epochs(killed) < wait_for:
                time.sleep(0.01)
            time.sleep(pause)
            child.send_signal(signal.SIGKILL)
        arguments = [
            sys.executable, "-m", "ttl_deploy", "train", "--resume", str(killed), "--cache", str(tmp_path / "cache")
        ]  # fmt: skip
    assert cli(arguments[3:]) == 0
    for name in ("history.jsonl", "predictions.csv"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    ours, theirs = (load_file(folder / "best.safetensors") for folder in (killed, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(killed.glob(".*"))


def _epochs(folder: Path) -> int:
    history = folder / "history.jsonl"
    return len(history.read_text().splitlines()) if history.exists() else 0


def test_the_same_command_on_a_run_that_never_began_names_the_one_that_goes_on(data: Data, tmp_path: Path) -> None:
    whole = train(data, MODEL, PROTOCOL, tmp_path / "whole")
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("config.yaml", "data.json", "split.csv"):
        (begun / name).write_bytes((whole.folder / name).read_bytes())
    with pytest.raises(BadInputError, match=r"exists already; go on with `ttl-deploy train --resume .*begun`"):
        train(data, MODEL, PROTOCOL, begun)
    assert resume(begun, cache=data.cache).history() == whole.history()
    with pytest.raises(BadInputError, match=r"exists already; choose another --out"):
        train(data, MODEL, PROTOCOL, whole.folder)


def test_resume_lengthens_a_finished_run(data: Data, tmp_path: Path) -> None:
    train(data, MODEL, PROTOCOL, tmp_path / "short")
    longer = resume(tmp_path / "short", epochs=5, cache=data.cache)
    straight = train(data, MODEL, training(epochs=5), tmp_path / "straight")
    assert longer.history() == straight.history()


def test_a_best_file_lost_to_a_kill_is_written_again(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, training(epochs=1), tmp_path / "run")
    before = load_file(run.weights)
    run.weights.unlink()
    (run.folder / "metrics.json").unlink()
    after = load_file(resume(run.folder, cache=data.cache).weights)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_starts_from_an_earlier_runs_bottom_layers(data: Data, tmp_path: Path) -> None:
    first = train(data, MODEL, training(epochs=1), tmp_path / "first")
    tiny = training(epochs=1, learning_rate=1e-30, min_learning_rate=0.0)
    second = train(data, but(MODEL, weights=str(first.folder), cut="layer1.1"), tiny, tmp_path / "second")
    before, after = load_file(first.weights), load_file(second.weights)
    weights = [k for k in before if k.endswith("weight") and not k.startswith("head.")]
    assert weights
    for name in weights:
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["head.fc.weight"], after["head.fc.weight"])
    assert "tensors of the reused layers loaded" in second.metrics()["weights"]
    assert second.metrics()["start_sha256"] == first.metrics()["weights_sha256"]
    assert "start_sha256" not in json.loads((first.folder / "metrics.json").read_text())
    assert len([k for k in after if k.startswith("layer1.1.")]) > 0


def test_a_resumed_run_records_the_weights_that_it_began_with(data: Data, tmp_path: Path) -> None:
    first = train(data, MODEL, training(epochs=1), tmp_path / "first")
    weights = tmp_path / "weights.safetensors"
    shutil.copy(first.weights, weights)
    begun = train(data, but(MODEL, weights=str(weights)), training(epochs=2), tmp_path / "run", finish=False)
    weights.write_bytes(b"others of the same name")
    record = resume(begun.folder, cache=data.cache).metrics()
    assert record["start_sha256"] == first.metrics()["weights_sha256"]
    assert "tensors of the reused layers loaded" in record["weights"]


def test_another_backbones_run_is_refused_before_anything_is_written(data: Data, tmp_path: Path) -> None:
    first = train(data, MODEL, training(epochs=1), tmp_path / "first")
    model = but(MODEL, weights=str(first.folder), backbone="densenet121", cut="denseblock1.denselayer1")
    with pytest.raises(WeightsError, match="none of the"):
        train(data, model, PROTOCOL, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_diverging_loss_stops_with_one_line_and_keeps_the_finished_epochs(data: Data, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not a finite number at epoch \d+, step \d+ .*lower --learning-rate"):
        train(data, MODEL, training(learning_rate=1e30), tmp_path / "run")
    assert not open_run(tmp_path / "run").finished
    with pytest.raises(BadInputError, match=r"is not finished; finish it with .*--resume"):
        finished_run(tmp_path / "run")


def test_the_rate_is_halved_when_the_validation_auprc_stagnates(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, training(epochs=8, patience=1), tmp_path / "run")
    history = run.history()
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    scheduler = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=1)
    for row in history:
        assert row["learning_rate"] == optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step(row["val_auprc"])


def test_training_ends_when_the_rate_is_too_small(data: Data, tmp_path: Path) -> None:
    protocol = training(epochs=None, patience=0, min_learning_rate=6e-4)
    run = train(data, MODEL, protocol, tmp_path / "run")
    assert run.metrics()["stopped"] == "the learning rate fell below 0.0006"
    assert run.history()[-1]["learning_rate"] == 1e-3


def test_minutes_end_a_run_that_is_complete_and_can_be_resumed(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, training(epochs=None, max_minutes=1e-9), tmp_path / "run")
    assert run.finished
    assert len(run.history()) == 1
    assert run.metrics()["stopped"] == "1e-09 minutes used up after 1 of 3 batches of the first epoch"
    assert run.history()[0]["part"] == "after 1 of 3 batches of the first epoch"
    # Nothing to go on from: a resumed run is the one that was never limited.
    longer = resume(run.folder, epochs=2, max_minutes=60, cache=data.cache)
    assert longer.history() == train(data, MODEL, training(epochs=2), tmp_path / "whole").history()


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_the_epoch_in_which_the_minutes_end_is_dropped_and_nothing_else_differs(
    calls: int, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first or second batch of epoch 3, or in its validation, after three batches."""
    two = train(data, MODEL, training(epochs=2), tmp_path / "two")
    four = train(data, MODEL, training(epochs=4), tmp_path / "four")
    asked = iter(range(1, 100))
    with monkeypatch.context() as patch:
        late = "ttl_deploy.training.loop.Trainer._out_of_time"
        patch.setattr(late, lambda self: self._progress.epoch == 2 and next(asked) > calls)
        limited = train(data, MODEL, training(epochs=4, max_minutes=50.0), tmp_path / "limited")
    assert limited.metrics()["stopped"] == "50 minutes used up; epoch 3 was not finished and dropped"
    assert limited.history() == two.history()
    ours, theirs = load_file(limited.weights), load_file(two.weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resume(limited.folder, cache=data.cache).history() == four.history()


@pytest.mark.parametrize("method", ["ftl", "ttl", "tf", "lwft"])
def test_every_method_trains(method: str, data: Data, tmp_path: Path) -> None:
    model = but(MODEL, method=method, cut=None if method == "ftl" else "layer2")
    run = train(data, model, training(epochs=1), tmp_path / "run")
    assert 0 <= run.metrics()["test"]["auroc"] <= 1
    assert load_model(run).spec.method == method


def test_bf16_trains_and_is_evaluated_in_fp32(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, training(epochs=1, precision="bf16"), tmp_path / "run")
    assert all(t.dtype in (torch.float32, torch.int64) for t in load_file(run.weights).values())
    model = load_model(run)
    assert next(model.parameters()).dtype == torch.float32


def test_balanced_class_weights_are_the_inverse_frequencies(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, training(epochs=1, class_weights="balanced"), tmp_path / "run")
    assert run.config.class_weights == "balanced"


def test_repeats_give_mean_and_deviation_over_seeds(data: Data, tmp_path: Path) -> None:
    summary = train_series(data, MODEL, training(epochs=1), tmp_path / "s", repeats=3)
    values = [open_run(tmp_path / "s" / n).metrics()["test"]["auroc"] for n in summary["runs"]]
    assert summary["seeds"] == [0, 1, 2]
    assert summary["test"]["auroc"]["mean"] == pytest.approx(np.mean(values))
    assert summary["test"]["auroc"]["std"] == pytest.approx(np.std(values, ddof=1))
    splits = {(tmp_path / "s" / n / "split.csv").read_bytes() for n in summary["runs"]}
    assert len(splits) == 1


def test_a_series_goes_on_where_it_was_and_repeats_nothing(data: Data, tmp_path: Path) -> None:
    train_series(data, MODEL, training(epochs=1), tmp_path / "s", repeats=2)
    (tmp_path / "s" / "repeat-1" / "metrics.json").unlink()
    stamp = (tmp_path / "s" / "repeat-0" / "metrics.json").stat().st_mtime_ns
    train_series(data, MODEL, training(epochs=1), tmp_path / "s", repeats=2)
    assert (tmp_path / "s" / "repeat-0" / "metrics.json").stat().st_mtime_ns == stamp
    assert open_run(tmp_path / "s" / "repeat-1").finished
    with pytest.raises(BadInputError, match="holds several runs: repeat-0, repeat-1"):
        open_run(tmp_path / "s")


def test_folds_test_every_image_once(data: Data, tmp_path: Path) -> None:
    summary = train_series(data, MODEL, training(epochs=1), tmp_path / "s", folds=3)
    tested = [i for n in summary["runs"] for i in read_predictions(open_run(tmp_path / "s" / n)).side("test").ids]
    assert len(tested) == len(set(tested)) == 60


def test_incremental_lwft_adds_layers_until_the_target_is_met(data: Data, tmp_path: Path) -> None:
    model, protocol = but(MODEL, method="lwft", cut=None), training(epochs=1)
    first = train_incremental(data, model, protocol, tmp_path / "a", target_auprc=0.0)
    assert first["runs"] == ["layers-1"]
    assert first["target_met"]
    impossible = train_incremental(data, model, protocol, tmp_path / "b", target_auprc=1.01)
    assert impossible["runs"] == [f"layers-{k}" for k in range(1, 11)]
    assert not impossible["target_met"]
    with pytest.raises(BadInputError, match="LWFT's procedure"):
        train_incremental(data, MODEL, PROTOCOL, tmp_path / "c", target_auprc=0.5)


def test_a_changed_image_stops_a_resume(images: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(images, tmp_path / "copy"))
    data = Data(path=copy / "labels.csv", cache=tmp_path / "cache")
    run = train(data, MODEL, training(epochs=1), tmp_path / "run")
    victim, other = sorted((copy / "lesion").iterdir())[:2]
    victim.write_bytes(other.read_bytes())
    with pytest.raises(BadInputError, match=victim.name):
        resume(run.folder, epochs=2, cache=tmp_path / "cache")


def test_damage_to_a_run_is_told(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, training(epochs=1), tmp_path / "run")
    checkpoint = run.folder / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match=r"last\.ckpt: is damaged"):
        resume(run.folder, epochs=2, cache=data.cache)
    run.weights.write_bytes(run.weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="is not the file that was evaluated"):
        finished_run(run.folder)
    (run.folder / "config.yaml").write_text("{")
    with pytest.raises(IntegrityError, match="not valid YAML"):
        open_run(run.folder)


def test_two_processes_under_torchrun_train_one_run(images: Path, tmp_path: Path) -> None:
    command = [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ttl_deploy"],
        *["train", str(images / "labels.csv"), "--backbone", "resnet18", "--cut", "stem", "--image-size", "32"],
        *["--weights", "random", "--device", "cpu", "--precision", "fp32", "--epochs", "2", "--batch-size", "8"],
        *["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")],
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    run = finished_run(tmp_path / "run")
    assert len(run.history()) == 2


def test_auto_precision_says_what_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    from ttl_deploy import hardware

    machine = hardware.describe()
    for isa, expected in ((("avx512_bf16",), "bf16"), (("avx2",), "fp32")):
        monkeypatch.setattr(hardware, "describe", lambda isa=isa: replace(machine, isa=isa))
        precision, sentence = resolve_precision("auto", "cpu")
        assert precision == expected
        assert expected in sentence
    with pytest.raises(BadInputError, match="fp16 training needs a GPU"):
        resolve_precision("fp16", "cpu")
    with pytest.raises(BadInputError, match="unknown precision"):
        resolve_precision("int8", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_asking_for_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(MissingDependencyError, match="train on the processor: `--device cpu`"):
        resolve_device("cuda")
    assert resolve_device("auto") == "cpu"


def test_timing_is_kept_apart_from_history(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, training(epochs=2), tmp_path / "run")
    lines = [json.loads(line) for line in (run.folder / "timing.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all("seconds" not in row for row in run.history())


def test_volumes_train_in_fp32_on_a_cpu() -> None:
    """In bfloat16 the weights' gradients of 3-D convolutions came out infinite at some sizes (PyTorch 2.14.1)."""
    precision, sentence = resolve_precision("auto", "cpu", "volume")
    assert precision == "fp32"
    assert "not to be trusted" in sentence
    with pytest.raises(BadInputError, match=r"--precision bf16: .*; pass --precision fp32"):
        resolve_precision("bf16", "cpu", "volume")
