"""What a user asks for as a file: a section per record; or a run's own `config.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttl_deploy import documents
from ttl_deploy.errors import BadInputError, DamagedError, near
from ttl_deploy.spec.record import Record, read_record

if TYPE_CHECKING:
    from ttl_deploy.spec.training import TrainConfig

Fields = dict[str, Any]
"""Of a record, as far as they were said."""

_OF_RUNS = {"schema_version", "data_digest"}
_FIX = "see --config in --help"


def read_request(path: Path, records: Mapping[str, type[Record]]) -> dict[str, Fields]:
    """Fields of a command's records, by the record's name; a record judges them when it is made.

    Args:
        path: The file, YAML. Paths in it are as on the command line.
        records: Kind of each record that the command takes, by the name of its section.

    Raises:
        BadInputError: There is no such file, or the run is one of several folds.
        DamagedError: It is no YAML, no run's configuration, or has a section that the command does not take.
    """
    content = documents.read_yaml(path, missing="pass a YAML file, such as a run's config.yaml", fix=_FIX)
    if not isinstance(content, dict):
        raise DamagedError("has no sections", where=path, fix=f"give it some of {', '.join(records)}")
    if content.keys() >= _OF_RUNS:
        from ttl_deploy.spec.training import TrainConfig

        said = _of_run(read_record(TrainConfig, content, path, fix=_FIX), path)
        return {
            name: {field: value for field, value in said.items() if field in kind.model_fields}
            for name, kind in records.items()
        }
    for name, section in content.items():
        if name not in records:
            raise DamagedError(f"has a section {name!r:.80}", where=path, fix=near(name, records))
        if not isinstance(section, dict):
            raise DamagedError(f"its section {name} is {section!r:.80}, not names with values", where=path, fix=_FIX)
    return content


def _of_run(config: TrainConfig, path: Path) -> Fields:
    """All that a user would have to say for this run."""
    if config.split.folds is not None:
        raise BadInputError(
            f"is of one fold of {config.split.folds}, which no option asks for",
            where=path,
            fix="pass the config.yaml of a run that is none of a cross-validation's",
        )
    return asked_of_run(config)


def asked_of_run(config: TrainConfig) -> Fields:
    """What a user asks for by a run's configuration, by field; of one without folds."""
    whole = _whole(config)
    said = {**whole["model"], **whole["preprocess"], **whole["reading"], **whole}
    split, task = config.split, config.model.task
    size, channels = config.model.input.size, config.model.input.channels
    parts = {"split": (split.train, split.val, split.test), "split_seed": split.seed}
    parts |= {"image_size": size if len(set(size)) > 1 else size[0], "channels": channels}
    if (rule := config.preprocess.volume) is not None:
        parts |= {"hu_window": rule.window, "spacing": rule.spacing, "slice_stride": rule.slice_stride}
    parts |= {"task": task.kind, "positive_from": task.positive_from}
    named = {**parts, "path": config.data, "device": config.accelerator}
    # The record of the reading lists them too, but not in runs of earlier versions.
    return {**said, **named, "classes": config.model.classes}


def _whole(record: Record) -> Fields:
    """All fields, nested ones too: what a file leaves out is said as well, or a recipe would say it otherwise."""
    return {name: _whole(value) if isinstance(value, Record) else value for name, value in record}
