"""A finished run that nobody trained: its files as a training writes them, around predictions that a test makes up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy.spec import ModelSpec, PreprocessSpec, TaskSpec, TrainConfig
from ttl_deploy.tasks import Labels, make_task
from ttl_deploy.training import evidence
from ttl_deploy.training.metrics import evaluate
from ttl_deploy.training.operation import operation
from ttl_deploy.training.run import BEST, METRICS, Predictions, evidence_of, write_config, write_predictions

PLAIN = TaskSpec()


def write_run(
    folder: Path,
    classes: Sequence[str],
    labels: Labels,
    logits: NDArray[np.float32],
    *,
    task: TaskSpec = PLAIN,
    rule: str | None = None,
    data: str = "somewhere/labels.csv",
    **more: Any,
) -> Path:
    """Every other image is of the test side, two follow each other of each patient; `more` goes into `metrics.json`."""
    folder.mkdir(parents=True)
    told, count = make_task(task, classes), len(labels)
    model = ModelSpec(
        backbone="resnet18", method="ttl", cut="layer1.0", classes=tuple(classes), image_size=32, task=task
    )
    config = TrainConfig(data=data, data_digest="0" * 64, model=model, preprocess=PreprocessSpec(image_size=32))
    write_config(folder, config)
    (folder / BEST).write_bytes(b"weights")
    ids = tuple(f"images/{k:03}.png" for k in range(count))
    sides = tuple(("val", "test")[k % 2] for k in range(count))
    patients = {image: f"p{k // 4}-{k % 2}" for k, image in enumerate(ids)}
    said = Predictions(ids, sides, labels, logits)
    write_predictions(folder, told, said)
    words = [told.text(label) for label in told.rows(labels)]
    rows = [
        ("id", "label", "patient_id", "split", "sha256"),
        *((image, word, patients[image], side, "0" * 64) for image, word, side in zip(ids, words, sides, strict=True)),
        ("images/train.png", words[0], "p-train", "train", "0" * 64),
    ]
    files.write_text(folder / "split.csv", "".join(map(files.csv_row, rows)))
    epoch = {"epoch": 1, "learning_rate": 0.1, "train_loss": 1.0, "val_loss": 0.5, "val_auroc": 0.5, "best": True}
    files.write_text(folder / "history.jsonl", json.dumps(epoch) + "\n")
    measured = {}
    for side in ("val", "test"):
        own = said.side(side)
        groups = [patients[image] for image in own.ids]
        found = evaluate(own.labels, told.probabilities(own.logits), told, groups=groups, bootstrap=50)
        measured[side] = found.model_dump(mode="json")
    point = {} if rule is None else {"operating_point": operation(said, rule, patients, told).model_dump(mode="json")}
    record = {
        **measured,
        **point,
        "images": {"train": 1, "val": sides.count("val"), "test": sides.count("test")},
        "best_epoch": 1,
        "epochs": 1,
        "stopped": None,
        "seconds": 1.0,
        "parameters": 1234567,
        "trainable": 1,
        "macs": 2_000_000,
        "weights_sha256": files.sha256(folder / BEST),
        "files": evidence.hashes(folder, evidence_of(told)),
        "hardware": {"cpu": "a processor"},
        "libraries": {"torch": "9"},
        "command": "ttl-deploy train somewhere",
    }
    files.write_json(folder / METRICS, {**record, **more})
    return folder


def two_classes(count: int = 80, seed: int = 0) -> tuple[Labels, NDArray[np.float32]]:
    """Labels and logits of a model that is right more often than not."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    logits = generator.normal(size=(count, 2)) + 1.2 * np.eye(2)[labels]
    return labels, logits.astype(np.float32)
