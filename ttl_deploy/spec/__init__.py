"""The small, versioned records that travel in runs and artifacts: a model, its preprocessing, a training, an export."""

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
