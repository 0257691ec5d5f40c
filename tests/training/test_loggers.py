"""`--log`: what others' readers find is the run's own history, each epoch once, whatever happened on the way."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml
from small import MODEL, NETWORK, PROTOCOL, TRIALS, but
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ttl_deploy import __version__
from ttl_deploy.cli.main import run as cli
from ttl_deploy.cut_search.search import search
from ttl_deploy.errors import BadInputError, MissingDependencyError
from ttl_deploy.progress import Silent
from ttl_deploy.spec import Data
from ttl_deploy.spec.search import SearchOptions
from ttl_deploy.training import loggers
from ttl_deploy.training.loggers import LOGGERS, Entry, Log, Logger, csv_table
from ttl_deploy.training.run import Run, open_run
from ttl_deploy.training.series import train_series
from ttl_deploy.training.train import resume, train

ALL = ("csv", "tensorboard", "mlflow")
SHORT = but(PROTOCOL, epochs=2)


@pytest.fixture
def data(synthetic: Path, pixel_cache: Path) -> Data:
    return Data(path=synthetic / "labels.csv", cache=pixel_cache)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MLflow's, as an address; the environment is put back afterwards."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    return tmp_path / "store"


class Heard(Silent):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def told_by_csv(run: Path) -> dict[str, dict[int, float]]:
    with (run / "history.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    numbers = [name for name in rows[0] if name not in ("epoch", "best")]
    assert [row["epoch"] for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
    return {name: {int(row["epoch"]): float(row[name]) for row in rows} for name in numbers}


def told_by_tensorboard(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def told_by_mlflow(run: Path) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    from mlflow import MlflowClient

    record = json.loads((run / "mlflow.json").read_text())
    client = MlflowClient(tracking_uri=record["tracking_uri"])
    found = client.get_run(record["run_id"])
    told = {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(record["run_id"], name)]
        for name in found.data.metrics
    }
    return found, told


def history_of(run: Run) -> dict[str, list[tuple[int, float]]]:
    rows = run.history()
    names = [name for name in rows[0] if name not in ("epoch", "best")]
    return {name: [(row["epoch"], row[name]) for row in rows] for name in names}


def holds_the_history_once(folder: Path) -> None:
    run = open_run(folder)
    expected, test = history_of(run), run.metrics()
    results = {f"test_{name}": [(test["best_epoch"], test["test"][name])] for name in run.task.METRICS}
    assert {name: list(told.items()) for name, told in told_by_csv(folder).items()} == expected
    found, told = told_by_mlflow(folder)
    assert told == expected | results
    assert found.info.status == "FINISHED"
    seen = told_by_tensorboard(folder)
    assert seen.keys() == (expected | results).keys()
    for name, points in (expected | results).items():
        assert [step for step, _ in seen[name]] == [step for step, _ in points]
        assert [value for _, value in seen[name]] == pytest.approx([value for _, value in points], rel=1e-6)


def test_every_logger_holds_the_history(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, SHORT, tmp_path / "run", log=ALL)
    holds_the_history_once(run.folder)
    table = pandas.read_csv(run.folder / "history.csv")
    assert table["best"].dtype == bool
    assert list(table["epoch"]) == [1, 2]
    found, _told = told_by_mlflow(run.folder)
    assert found.info.run_name == "run"
    assert found.data.params["learning_rate"] == "0.001"
    assert found.data.params["model.cut"] == "layer1.0"
    assert found.data.tags["ttl-deploy.version"] == __version__
    assert found.data.tags["ttl-deploy.backbone"] == "resnet18"
    assert found.data.tags["ttl-deploy.method"] == "ttl"
    assert found.data.tags["ttl-deploy.cut"] == "layer1.0"
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    (text,) = events.Tensors("config/text_summary")
    said = yaml.safe_load(text.tensor_proto.string_val[0].decode().removeprefix("```yaml").removesuffix("```"))
    assert said["model.cut"] == "layer1.0"


def test_without_loggers_and_with_them_the_run_is_the_same(data: Data, tmp_path: Path) -> None:
    plain = train(data, MODEL, SHORT, tmp_path / "plain").folder
    logged = train(data, MODEL, SHORT, tmp_path / "logged", log=ALL).folder
    more = {"history.csv", "tensorboard", "mlflow.json"}
    assert {e.name for e in logged.iterdir()} == {e.name for e in plain.iterdir()} | more
    for name in ("config.yaml", "history.jsonl", "best.safetensors", "split.csv", "predictions.csv"):
        assert (logged / name).read_bytes() == (plain / name).read_bytes()
    assert open_run(plain).config_digest() == open_run(logged).config_digest()


def test_a_lengthened_run_goes_on_in_the_same_logs(data: Data, tmp_path: Path) -> None:
    run = train(data, MODEL, SHORT, tmp_path / "run", log="csv,tensorboard,mlflow").folder
    first, _told = told_by_mlflow(run)
    (run / "metrics.json").unlink()
    resume(run, epochs=2, cache=data.cache, log=ALL)
    holds_the_history_once_but_test(run)
    resume(run, epochs=4, cache=data.cache, log=ALL)
    assert len(open_run(run).history()) == 4
    holds_the_history_once_but_test(run)
    found, _told = told_by_mlflow(run)
    assert found.info.run_id == first.info.run_id


def test_a_file_begun_in_the_same_second_by_a_process_of_a_higher_number_voids_nothing(
    data: Data, tmp_path: Path
) -> None:
    """TensorBoard reads files in the order of their names: second, host, process."""
    train(data, MODEL, SHORT, tmp_path / "run", log="tensorboard", finish=False)
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    file.rename(file.with_name(f"events.out.tfevents.{int(time.time()) + 1000}.host.99999.0"))
    run = resume(tmp_path / "run", epochs=3, cache=data.cache, log="tensorboard").folder
    steps = {name: [step for step, _ in points] for name, points in told_by_tensorboard(run).items()}
    assert steps["train_loss"] == [1, 2, 3]


def holds_the_history_once_but_test(folder: Path) -> None:
    expected = history_of(open_run(folder))
    _found, told = told_by_mlflow(folder)
    assert {name: points for name, points in told.items() if not name.startswith("test_")} == expected
    assert {name: list(points.items()) for name, points in told_by_csv(folder).items()} == expected
    seen = told_by_tensorboard(folder)
    assert {name: [s for s, _ in points] for name, points in seen.items() if not name.startswith("test_")} == {
        name: [step for step, _ in points] for name, points in expected.items()
    }


def test_a_logger_that_comes_with_a_resume_tells_the_epochs_before_too(data: Data, tmp_path: Path) -> None:
    train(data, MODEL, SHORT, tmp_path / "run", finish=False)
    resume(tmp_path / "run", epochs=3, cache=data.cache, log=ALL)
    holds_the_history_once(tmp_path / "run")


def test_after_a_kill_no_epoch_is_told_twice(synthetic: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of a training, twice; then to the end."""
    out, cache = tmp_path / "run", tmp_path / "cache"
    begin = [
        *["train", str(synthetic / "labels.csv"), "--backbone", "resnet18", "--cut", "layer1.1", "--image-size", "32"],
        *["--weights", "random", "--device", "cpu", "--precision", "fp32", "--epochs", "10", "--batch-size", "8"],
        *["--out", str(out), "--log", "csv", "--log", "tensorboard,mlflow", "--cache", str(cache)],
    ]
    again = ["train", "--resume", str(out), "--log", "csv,tensorboard,mlflow", "--cache", str(cache)]
    for command, epochs in ((begin, 2), (again, 5)):
        killed_after(command, out / "mlflow.json", out / "history.jsonl", epochs)
        assert not (out / "metrics.json").exists()
    assert cli(again) == 0
    assert len(open_run(out).history()) == 10
    holds_the_history_once(out)


def killed_after(command: Sequence[str], record: Path, history: Path, epochs: int) -> None:
    call = [sys.executable, "-m", "ttl_deploy", *command]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(call, env=dict(os.environ), **silent) as child:  # type: ignore[call-overload]
        while child.poll() is None and not (history.exists() and len(history.read_text().splitlines()) >= epochs):
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    assert record.exists()


def test_epochs_that_were_trained_anew_are_not_mixed_with_those_that_are_gone(data: Data, tmp_path: Path) -> None:
    """As where minutes ended a first epoch, which then is trained whole; MLflow takes nothing back."""
    run = train(data, MODEL, SHORT, tmp_path / "run", log="mlflow").folder
    before, _told = told_by_mlflow(run)
    train(data, but(MODEL, cut="stem"), SHORT, tmp_path / "other", log=()).folder.joinpath("x").touch()
    (tmp_path / "other" / "mlflow.json").write_bytes((run / "mlflow.json").read_bytes())
    resume(tmp_path / "other", epochs=3, cache=data.cache, log="mlflow")
    found, told = told_by_mlflow(tmp_path / "other")
    assert found.info.run_id != before.info.run_id
    assert told["train_loss"] == history_of(open_run(tmp_path / "other"))["train_loss"]


def test_a_run_that_was_deleted_in_mlflow_is_begun_again(data: Data, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = train(data, MODEL, SHORT, tmp_path / "run", log="mlflow").folder
    first, _told = told_by_mlflow(run)
    MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"]).delete_run(first.info.run_id)
    resume(run, epochs=3, cache=data.cache, log="mlflow")
    found, told = told_by_mlflow(run)
    assert found.info.run_id != first.info.run_id
    assert [step for step, _ in told["train_loss"]] == [1, 2, 3]


def test_without_an_address_mlflow_writes_into_a_folder_here(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    find = loggers.mlflow_runs.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "sqlalchemy" else find(name, *a))
    run = train(data, MODEL, but(SHORT, epochs=1), tmp_path / "run", log="mlflow").folder
    assert json.loads((run / "mlflow.json").read_text())["tracking_uri"] == (tmp_path / "mlruns").as_uri()
    monkeypatch.chdir("/")
    resume(run, epochs=2, cache=data.cache, log="mlflow")
    _found, told = told_by_mlflow(run)
    assert [step for step, _ in told["val_loss"]] == [1, 2]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_password_in_an_address_is_not_kept() -> None:
    from ttl_deploy.training.loggers.mlflow_runs import _public

    assert _public("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert _public("file:///a/b") == "file:///a/b"


def test_a_search_has_its_trials_under_it(data: Data, tmp_path: Path, uncounted_options: SearchOptions) -> None:
    from mlflow import MlflowClient

    found = search(data, NETWORK, TRIALS, tmp_path / "found", options=uncounted_options, log=ALL)
    above, told = told_by_mlflow(found.folder)
    trials = sorted((found.folder / "trials").iterdir())
    assert len(trials) > 1
    for trial in trials:
        assert told_by_csv(trial)["train_loss"] == dict(history_of(open_run(trial))["train_loss"])
        assert (trial / "tensorboard").is_dir()
        below, _told = told_by_mlflow(trial)
        assert below.data.tags["mlflow.parentRunId"] == above.info.run_id
        assert below.data.tags["ttl-deploy.cut"] == trial.name
    client = MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    every = client.search_runs([above.info.experiment_id])
    assert {run.info.status for run in every} == {"FINISHED"}
    assert len(every) == len(trials) + 1
    assert told["test_auroc"][0][1] == found.winner.metrics()["test"]["auroc"]
    again = search(data, NETWORK, TRIALS, tmp_path / "found", options=uncounted_options, log="csv")
    assert again.result["cut"] == found.result["cut"]


@pytest.fixture
def uncounted_options() -> SearchOptions:
    budget = {"parameters": 100_000}
    return SearchOptions(strategy="exhaustive", divisions=1, latency=False, threads=1, budget=budget)


def test_a_series_tells_of_every_run(data: Data, tmp_path: Path) -> None:
    train_series(data, MODEL, but(SHORT, epochs=1), tmp_path / "series", repeats=2, log="csv")
    for name in ("repeat-0", "repeat-1"):
        assert (tmp_path / "series" / name / "history.csv").is_file()
    train_series(data, MODEL, but(SHORT, epochs=1), tmp_path / "series", repeats=2, log="tensorboard")


class Gone(Log):
    """Fails in one of its functions, of the runs of some name alone."""

    def __init__(self, entry: Entry, when: str, name: str = "") -> None:
        self._when = when if entry.folder.name == name or not name else ""
        self._fail("open")

    def _fail(self, now: str) -> None:
        if now == self._when:
            raise OSError(28, "No space\nleft on http://me:secret@host/")

    def update(self, rows: Any) -> None:
        self._fail("update")

    def result(self, measured: Any, epoch: int) -> None:
        self._fail("result")

    def close(self, ending: Any) -> None:
        self._fail("close")


def test_a_log_that_fails_in_one_trial_is_told_and_the_search_goes_on(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncounted_options: SearchOptions
) -> None:
    LOGGERS.names()
    monkeypatch.setitem(LOGGERS._entries, "gone", Logger(lambda entry: Gone(entry, "update", "layer1.0")))
    heard, given = Heard(), {"options": uncounted_options, "log": ("gone", "csv")}
    found = search(data, NETWORK, TRIALS, tmp_path / "found", reporter=heard, **given)
    (warning,) = [w for w in heard.warnings if "told nothing more" in w]
    assert warning.startswith("layer1.0: gone is told nothing more: ")
    assert "No space left on http://host/" in warning
    assert found.winner.finished
    trials = sorted((found.folder / "trials").iterdir())
    assert len(trials) > 1
    assert all(told_by_csv(trial)["train_loss"] for trial in trials)
    again = Heard()
    search(data, NETWORK, TRIALS, tmp_path / "found", reporter=again, **given)
    assert not [w for w in again.warnings if "told nothing more" in w]


@pytest.mark.parametrize("when", ["open", "update", "result", "close"])
def test_a_log_that_fails_costs_a_warning_and_not_the_training(
    when: str, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LOGGERS.names()
    monkeypatch.setitem(LOGGERS._entries, "gone", Logger(lambda entry: Gone(entry, when)))
    heard = Heard()
    run = train(data, MODEL, SHORT, tmp_path / "run", log=("gone", "csv"), reporter=heard)
    assert run.finished
    (warning,) = [w for w in heard.warnings if w.startswith("gone is told nothing more")]
    assert "No space left on http://host/" in warning
    assert len(told_by_csv(run.folder)["train_loss"]) == 2


def test_a_table_that_cannot_be_written_leaves_the_run_whole(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_table, "TABLE", "no/../\0")
    heard = Heard()
    assert train(data, MODEL, SHORT, tmp_path / "run", log="csv", reporter=heard).finished
    assert any("csv is told nothing more" in warning for warning in heard.warnings)


def test_an_unknown_logger_and_a_missing_package_are_told_before_the_data_is_read(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInputError, match="unknown logger 'wandb'; valid: "):
        train(data, MODEL, SHORT, tmp_path / "run", log="csv,wandb")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ttl-deploy\[mlflow\]'"):
        train(data, MODEL, SHORT, tmp_path / "run", log="mlflow")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert cli(["search", str(data.path), "--out", str(tmp_path / "found"), "--log", "tensorboard"]) == 2
    assert "pip install 'ttl-deploy[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "found").exists()


def test_a_server_that_does_not_answer_is_told_at_once(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(BadInputError, match=r"http://127\.0\.0\.1:9: MLflow cannot be used there") as told:
        train(data, MODEL, SHORT, tmp_path / "run", log="mlflow")
    assert "secret" not in str(told.value)
    assert not (tmp_path / "run").exists()
