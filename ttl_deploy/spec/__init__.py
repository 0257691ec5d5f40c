"""The small, versioned records that travel in runs and artifacts: a model, its preprocessing, a training, an export.

Each name is imported on first use: a command waits for no record but those that it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttl_deploy.first_use import on_first_use

if TYPE_CHECKING:
    from ttl_deploy.spec.artifact import ArtifactManifest, FileRecord, ParityRecord, SourceRun
    from ttl_deploy.spec.bounds import Bounds
    from ttl_deploy.spec.criteria import Criteria, CriteriaFile, read_criteria, refuse_other_bounds
    from ttl_deploy.spec.data import Data, Reading, SplitSpec
    from ttl_deploy.spec.inputs import InputSpec, PreprocessSpec, VolumeSpec, version_of
    from ttl_deploy.spec.limits import RequestLimits
    from ttl_deploy.spec.model import Model, ModelSpec, Network
    from ttl_deploy.spec.placement import Placement
    from ttl_deploy.spec.record import (
        INPUT_VERSION,
        OPERATING_POINT_VERSION,
        SCHEMA_VERSION,
        TASK_VERSION,
        AnyRecord,
        PathText,
        Record,
        make_record,
        read_record,
    )
    from ttl_deploy.spec.scenario import Scenario
    from ttl_deploy.spec.stream import Stream
    from ttl_deploy.spec.table import Table
    from ttl_deploy.spec.task import OperatingPoint, TaskSpec
    from ttl_deploy.spec.training import AugmentSpec, Protocol, TrainConfig
    from ttl_deploy.spec.trust import Trust

__all__ = [
    "INPUT_VERSION",
    "OPERATING_POINT_VERSION",
    "SCHEMA_VERSION",
    "TASK_VERSION",
    "AnyRecord",
    "ArtifactManifest",
    "AugmentSpec",
    "Bounds",
    "Criteria",
    "CriteriaFile",
    "Data",
    "FileRecord",
    "InputSpec",
    "Model",
    "ModelSpec",
    "Network",
    "OperatingPoint",
    "ParityRecord",
    "PathText",
    "Placement",
    "PreprocessSpec",
    "Protocol",
    "Reading",
    "Record",
    "RequestLimits",
    "Scenario",
    "SourceRun",
    "SplitSpec",
    "Stream",
    "Table",
    "TaskSpec",
    "TrainConfig",
    "Trust",
    "VolumeSpec",
    "make_record",
    "read_criteria",
    "read_record",
    "refuse_other_bounds",
    "version_of",
]

_HOMES = {
    "AnyRecord": "record",
    "ArtifactManifest": "artifact",
    "AugmentSpec": "training",
    "Bounds": "bounds",
    "Criteria": "criteria",
    "CriteriaFile": "criteria",
    "Data": "data",
    "FileRecord": "artifact",
    "INPUT_VERSION": "record",
    "InputSpec": "inputs",
    "Model": "model",
    "ModelSpec": "model",
    "Network": "model",
    "OPERATING_POINT_VERSION": "record",
    "OperatingPoint": "task",
    "ParityRecord": "artifact",
    "PathText": "record",
    "Placement": "placement",
    "PreprocessSpec": "inputs",
    "Protocol": "training",
    "Reading": "data",
    "Record": "record",
    "RequestLimits": "limits",
    "SCHEMA_VERSION": "record",
    "Scenario": "scenario",
    "SourceRun": "artifact",
    "SplitSpec": "data",
    "Stream": "stream",
    "TASK_VERSION": "record",
    "Table": "table",
    "TaskSpec": "task",
    "TrainConfig": "training",
    "Trust": "trust",
    "VolumeSpec": "inputs",
    "make_record": "record",
    "read_criteria": "criteria",
    "read_record": "record",
    "refuse_other_bounds": "criteria",
    "version_of": "inputs",
}

__getattr__ = on_first_use(__name__, _HOMES)
