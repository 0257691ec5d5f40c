"""The ways of each contest do the same work, and the table says how they stand."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

import numpy as np
import speed
from pytest import MonkeyPatch, approx

from ttl_deploy.artifact import Artifact
from ttl_deploy.inputs import image as rule
from ttl_deploy.training.beside import Beside
from ttl_deploy.training.run import open_run


def test_a_slower_way_has_a_larger_time(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    row = speed.held(
        speed.Contest("sleep", "call", lambda: time.sleep(0.002), {"longer": lambda: time.sleep(0.02)}, each=2), 6
    )
    taken, ratio, low, high = row.others["longer"]
    assert taken == approx(10, rel=0.5)
    assert low <= ratio <= high
    assert ratio > 2
    assert list(speed.table([row]))[2].startswith("| sleep | call | ")


def test_the_ways_of_images_and_augmentation_do_the_same_work() -> None:
    now = rule._finish
    contest = next(speed.images())
    assert np.shape(contest.others["Pillow and torchvision's transforms"]()) == (3, 224, 224)
    assert rule._finish is now
    contest = next(speed.augmentations())
    images, _masks = contest.ours()  # type: ignore[misc]
    assert all(np.shape(way()) == images.shape for way in contest.others.values())


def test_files_in_line_are_written_before_the_next_epoch() -> None:
    done: list[int] = []
    beside = Beside()
    with speed._in_line():
        beside.start(lambda: (time.sleep(0.05), done.append(1))[1])
        assert done == [1]


def test_either_precision_trains_the_same_images(tmp_path: Path) -> None:
    contest = next(speed.precisions(tmp_path))
    assert (contest.what, contest.unit) == ("an epoch of resnet18 layer2.1, 32 pixels", "epoch in bf16")
    runs = [contest.ours(), contest.others["in fp32"]()]
    for run, precision in zip(runs, ("bf16", "fp32"), strict=True):
        assert run.config.precision == precision  # type: ignore[attr-defined]


def test_an_engines_ways_give_what_the_session_gives(artifact: Artifact) -> None:
    (contest,) = islice(speed.engines([artifact.folder], [2]), 1)
    said = contest.ours()
    others = dict(contest.others)
    np.testing.assert_allclose(others.pop("ONNX Runtime")(), said, atol=1e-5)  # type: ignore[arg-type]
    assert set(others) == {"bare loop, any shape", "bare loop, this shape"}
    for way in others.values():
        (logits,) = way().values()  # type: ignore[attr-defined]
        np.testing.assert_array_equal(logits, said)


def test_the_report_has_every_group(tmp_path: Path) -> None:
    row = speed.Row("work", "image", 1500.0, {"before": (3000.0, 2.0, 1.9, 2.1)})
    text = speed.report({"images": [row]})
    assert text.startswith(
        "<!-- made by `python benchmarks/speed.py --report reports/speed.md` -->\n# Speed\n\nEach way is"
    )
    assert "compared, and are equal;\neither augmentation" in text
    assert "compiles one.\n\n## Images" in text
    assert "| work | image | 1.50 s | before | 3.00 s | 2.00 [1.90, 2.10] |" in text


def test_either_augmentation_trains(tmp_path: Path, synthetic: Path) -> None:
    (one,) = speed.trained(synthetic / "labels.csv", tmp_path, epochs=1, seeds=(0,))
    ours, before = (open_run(tmp_path / f"{name}0") for name in ("ours", "before"))
    assert ours.config == before.config
    assert ours.history()[0]["train_loss"] != before.history()[0]["train_loss"]
    assert one.auroc == (ours.metrics()["test"]["auroc"], before.metrics()["test"]["auroc"])
    assert "| 0 | " in speed.report({}, [one])
