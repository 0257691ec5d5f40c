"""What files record of the occasion on which they were made: moments and durations, and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

RECORDED = {
    "metrics.json": {"finished", "seconds"},
    "manifest.json": {"created", "metrics_sha256"},
    "result.json": {"answer", "cpu_seconds", "finished", "seconds", "steps"},
    "records": {"cpu_seconds", "seconds"},
    "last.ckpt": {"seconds"},
    "timing.jsonl": {"seconds"},
}
"""By name of the file or its folder: fields, at any depth, that hold a moment, a duration, or the hash of a file that
holds one; `answer` is a sentence with the minutes in it."""

RECORDED_TEXT = {"report.html": re.compile(r"<td>[\d.]+</td>(?=<td>trained)|[\d.]+ min\b|\d{4}-\d\d-\d\d")}
"""Seconds of a trial, minutes of the search and its day."""


def without(value: Any, fields: set[str]) -> Any:
    """A record without fields of these names, at any depth; tensors as lists, which compare."""
    if isinstance(value, dict):
        return {key: without(item, fields) for key, item in value.items() if key not in fields}
    if isinstance(value, list):
        return [without(item, fields) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def content(path: Path) -> Any:
    """What two files have to share: their bytes, or, where something is recorded in them, all the rest."""
    if path.name in RECORDED_TEXT:
        return RECORDED_TEXT[path.name].sub("", path.read_text())
    fields = RECORDED.get(path.name) or RECORDED.get(path.parent.name)
    if fields is None:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix == ".ckpt":
        import torch

        return without(torch.load(path, weights_only=True), fields)
    lines = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
    return [without(json.loads(line), fields) for line in lines]


def files(folder: Path) -> list[str]:
    """Every file below a folder, or the file itself."""
    if folder.is_file():
        return [""]
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
