"""MLflow, through its client alone: a run for each training, those of a search under one of the search.

They go where MLflow is told to (`MLFLOW_TRACKING_URI`); else where it puts them itself, or, where the packages of that
database are not installed, into the folder `mlruns` here. Nothing is sent anywhere else: MLflow's telemetry is off.
`mlflow.json` in the run's folder says which run it is, so that a resumed training goes on with it.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from ttl_deploy import documents, files
from ttl_deploy.errors import BadInputError, needing
from ttl_deploy.spec import Record, read_record
from ttl_deploy.training.loggers import LOGGERS, Ending, Entry, Log, Logger, Row, numbers, reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECORD = "mlflow.json"
STORE = "mlruns"
EXPERIMENT = "ttl-deploy"

_SET = {"MLFLOW_DISABLE_TELEMETRY": "true"}
_UNLESS_SET = {
    # MLflow refuses its own folders otherwise, which need no database.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    # It would try for many minutes, in which no epoch is kept.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_STATUS: dict[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_MOST_PARAMS = 100
"""Of one request, by MLflow's interface."""
_LONGEST = 500
"""Of a parameter's value, in the oldest servers."""


class MlflowRecord(Record):
    """Which run of MLflow's it is.

    Attributes:
        tracking_uri: Where it is, without a password.
        run_id: Which.
    """

    tracking_uri: str
    run_id: str


class MlflowRun(Log):
    """A run of MLflow's: parameters and tags when it begins, metrics by epoch."""

    def __init__(self, entry: Entry) -> None:
        _prepare()
        from mlflow import MlflowClient

        self._entry = entry
        self._before = _read(entry.folder)
        self._above = None if entry.parent is None else _read(entry.parent)
        self._uri = _place(self._above or self._before)
        self._client: MlflowClient = MlflowClient(tracking_uri=self._uri)
        self._told: dict[tuple[str, int], float] = {}
        self._run = self._gone_on() or self._begun()

    def update(self, rows: Sequence[Row]) -> None:
        """See `Log.update`."""
        known = {(name, int(row["epoch"])): value for row in rows for name, value in numbers(row).items()}
        if any(known.get(place) != value for place, value in self._told.items()):
            # What is told cannot be taken back: the epochs were trained anew, to other values.
            self._client.set_terminated(self._run, _STATUS["stopped"])
            self._run = self._begun()
        for row in rows:
            self._tell(numbers(row), int(row["epoch"]))

    def result(self, measured: Mapping[str, float], epoch: int) -> None:
        """See `Log.result`."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, epoch) for name, value in measured.items()])

    def close(self, ending: Ending) -> None:
        """See `Log.close`."""
        self._client.set_terminated(self._run, _STATUS[ending])

    def _tell(self, measured: Mapping[str, float], epoch: int) -> None:
        missing = {name: value for name, value in measured.items() if (name, epoch) not in self._told}
        if missing:
            self.result(missing, epoch)
            self._told.update({(name, epoch): value for name, value in missing.items()})

    def _gone_on(self) -> str | None:
        """The run that the folder names, where it is of this place and still there."""
        from mlflow.exceptions import MlflowException

        if self._before is None or self._before.tracking_uri != _public(self._uri):
            return None
        try:
            found = self._client.get_run(self._before.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if found.info.lifecycle_stage != "active":
            return None
        for name in found.data.metrics:
            if not name.startswith("test_"):
                history = self._client.get_metric_history(self._before.run_id, name)
                self._told.update({(name, metric.step): metric.value for metric in history})
        self._client.update_run(self._before.run_id, status="RUNNING")
        return self._before.run_id

    def _begun(self) -> str:
        from mlflow.entities import Param

        tags = dict(self._entry.tags)
        if self._above is not None:
            tags["mlflow.parentRunId"] = self._above.run_id
        made = self._client.create_run(_experiment(self._client), run_name=self._entry.name, tags=tags)
        run = str(made.info.run_id)
        params = [Param(name, str(value)[:_LONGEST]) for name, value in self._entry.params.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run, params=params[first : first + _MOST_PARAMS])
        self._told = {}
        record = MlflowRecord(tracking_uri=_public(self._uri), run_id=run)
        files.write_json(self._entry.folder / RECORD, record.model_dump())
        return run


def _prepare() -> None:
    """Says to MLflow what it reads when it is imported."""
    os.environ.update(_SET)
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)


def _read(folder: Path) -> MlflowRecord | None:
    path = folder / RECORD
    if not path.is_file():
        return None
    fix = "remove it: another run is then begun in MLflow"
    return read_record(MlflowRecord, documents.read_object(path, "record of MLflow's run", fix=fix), path, fix=fix)


def _place(record: MlflowRecord | None) -> str:
    """As the environment says; else where the run is already; else as MLflow would, if it could."""
    from mlflow.tracking import get_tracking_uri, is_tracking_uri_set

    if is_tracking_uri_set():  # type: ignore[no-untyped-call]
        return _whole(get_tracking_uri())
    if record is not None:
        return record.tracking_uri
    if importlib.util.find_spec("sqlalchemy") is not None:
        return _whole(get_tracking_uri())
    return Path(STORE).absolute().as_uri()


def _whole(uri: str) -> str:
    """A path with the folders before it, whatever folder the next command runs in."""
    return uri if ":" in uri or uri == "databricks" else Path(uri).absolute().as_uri()


def _public(uri: str) -> str:
    """An address without the user and the password in it."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _experiment(client: MlflowClient) -> str:
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found: Any = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            # Another process may have made it since.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _check() -> None:
    _prepare()
    with needing("mlflow", "--log mlflow needs", "mlflow"):
        from mlflow import MlflowClient
    uri = _place(None)
    if uri.startswith("file:"):
        return
    try:
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    # Its errors, and those of the libraries that it asks by, share no base class.
    except Exception as error:
        raise BadInputError(
            f"MLflow cannot be used there: {reason(error)}",
            where=_public(uri),
            fix="start it, or set MLFLOW_TRACKING_URI to where it is",
        ) from error


LOGGERS.register("mlflow", Logger(MlflowRun, _check, gathers=True))
