"""An artifact is measured wherever it lies, in a folder whose name is no text too."""

import os
import shutil
from pathlib import Path
from typing import Any

from ttl_deploy.artifact import Artifact
from ttl_deploy.latency.isolate import Job, from_line, run_isolated, to_line
from ttl_deploy.latency.persistent import Block, PersistentWorker
from ttl_deploy.spec import Placement

BRIEF: dict[str, Any] = {"min_samples": 3, "min_seconds": 0.0, "placement": Placement(runtime="onnxruntime", threads=1)}


def test_a_folder_whose_name_is_not_utf_8_crosses_to_both_kinds_of_worker(artifact: Artifact, tmp_path: Path) -> None:
    folder = Path(shutil.move(artifact.folder, tmp_path / os.fsdecode(b"gr\xf6\xdfe")))
    job = Job(label="odd", artifact=str(folder), **BRIEF)
    assert len(run_isolated(job).samples_ms) >= 3
    with PersistentWorker(job) as worker:
        assert len(worker.measure(Block(min_samples=3, min_seconds=0)).samples_ms) >= 3


def test_a_line_is_ascii_and_gives_the_record_back() -> None:
    loader = "module:function"
    job = Job(label="odd", loader=loader, argument={"run": os.fsdecode(b"gr\xf6\xdfe"), "many": [1, 2.5, None]})
    line = to_line(job)
    assert line.isascii()
    assert "\n" not in line
    assert from_line(Job, line) == job
