"""Which printed rows a run is set beside, and what is said of the difference; the configurations are made by hand."""

from pathlib import Path
from typing import Any

import pytest

from ttl_deploy.papers.beside import Ours, beside, ours_of, paper_of
from ttl_deploy.progress import SILENT, Silent
from ttl_deploy.spec import ModelSpec, PreprocessSpec, SplitSpec, TaskSpec, TrainConfig
from ttl_deploy.spec.protocol import OptimSpec, ScheduleSpec
from ttl_deploy.transfer import resolve

OURS = {"auroc": Ours(0.9, (0.8, 0.95)), "auprc": Ours(0.7, (0.6, 0.8)), "dice": Ours(0.95, None, 0.02)}
HERE = "40 test images"


def config(recipe: str | None, model: dict[str, Any], **changes: Any) -> TrainConfig:
    """As `train` records it: the cut by its own name."""
    spec = resolve(ModelSpec(**{"classes": ("a", "b"), **model})).spec
    preprocess = PreprocessSpec.of(spec.input)
    fields = {"data": "/clinic/labels.csv", "data_digest": "d", "model": spec, "preprocess": preprocess, **changes}
    return TrainConfig(recipe=recipe, **fields)


def rows(recipe: str | None, model: dict[str, Any], **changes: Any) -> list[tuple[str, str, str]]:
    found = beside(config(recipe, model, **changes), OURS, HERE)
    return [] if found is None else [(row.table, row.row, row.metric) for row in found.rows]


def both(*titles: tuple[str, str]) -> list[tuple[str, str, str]]:
    return [(table, row, metric) for table, row in titles for metric in ("auroc", "auprc")]


R50 = {"backbone": "resnet50"}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({**R50, "method": "ftl"}, both(("TTL 1", "FTL"), ("TTL 2-mitotic", "FTL"), ("TTL 3", "RN50 FTL"))),
        ({**R50, "method": "ttl", "cut": "layer3.3"}, both(("TTL 1", "TTL-2"))),
        (
            {**R50, "method": "ttl", "cut": "layer3"},
            both(("TTL 1", "TTL-1"), ("TTL 2-mitotic", "TTL-1"), ("TTL 2-mitotic", "TTL-2"), ("TTL 3", "RN50 TTL")),
        ),
        ({**R50, "method": "ttl", "cut": "layer2.1"}, []),
        ({"backbone": "resnet18", "method": "ftl"}, []),
        (
            {**R50, "method": "lwft", "layers": 3},
            both(("TTL 1", "LWFT-1"), ("TTL 1", "LWFT-2"), ("TTL 2-mitotic", "LWFT-1"), ("TTL 2-mitotic", "LWFT-2")),
        ),
        ({"backbone": "densenet121", "method": "ttl", "cut": "transition2"}, both(("TTL 3", "DN121 TTL"))),
        ({"backbone": "efficientnet_b0", "method": "ttl", "cut": "block:5"}, both(("TTL 3", "ENb0 TTL"))),
    ],
)
def test_rows_are_of_the_same_backbone_method_and_cut(
    model: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    assert rows("ttl", model) == expected


def test_without_a_recipe_there_are_no_rows() -> None:
    assert rows(None, {**R50, "method": "ftl"}) == []


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ({}, "WT"),
        ({"weights": "/files/weights.pth"}, "WT"),
        ({"weights": "random"}, "RI"),
        ({"init": "stats"}, "ST"),
        ({"init": "weights:block:2+stats"}, None),
    ],
)
def test_rows_are_of_the_same_start(start: dict[str, str], expected: str | None) -> None:
    found = rows("feature-reuse", {**R50, "method": "ftl"}, **start)
    sets = ("DDSM", "CheXpert", "Camelyon")
    assert found == [("Feature reuse 1", f"ResNet50 {expected} ({name})", "auroc") for name in sets if expected]


def test_rows_are_of_the_groups_that_a_recipe_names() -> None:
    free, frozen = (rows(name, {**R50, "method": "ftl"}) for name in ("radimagenet", "radimagenet-freeze"))
    assert len(free) == len(frozen) == 5 * 2
    assert all(row.startswith("No Freeze ") for _table, row, _metric in free)
    assert all(row.startswith("Freeze ") for _table, row, _metric in frozen)


def test_masks_are_beside_masks_with_the_deviation_of_their_images() -> None:
    model = {"backbone": "resnet34", "cut": "block:2", "method": "ttl", "head": "unet", "classes": ("lung",)}
    found = beside(config("lung-seg", {**model, "task": TaskSpec(kind="segmentation")}), OURS, HERE)
    assert found is not None
    (row,) = found.rows
    assert (row.row, row.printed, row.ours_text) == ("TTL-B2", "0.972 ± 0.027", "0.9500 ± 0.0200")


def test_volumes_are_beside_volumes() -> None:
    model = {"backbone": "resnext3d101", "cut": "layer3.18", "method": "ttl", "classes": ("embolism",)}
    volume = {"input": {"kind": "volume", "size": (32, 208, 208)}, "task": TaskSpec(kind="multilabel")}
    assert rows("pe-ct", {**model, **volume}) == both(("TTL 2-PE", "TTL-1"), ("TTL 2-PE", "TTL-2"))


def test_a_row_has_what_is_printed_and_what_is_ours_and_its_slip() -> None:
    found = beside(config("ttl", {**R50, "method": "ftl"}), OURS, HERE)
    assert found is not None
    row = found.rows[0]
    assert (row.printed, row.value, row.spread) == ("84.9 ± 0.1", 0.849, 0.001)
    assert (row.ours, row.interval, row.network) == (0.9, (0.8, 0.95), "resnet50 ftl")
    assert row.slip == "printed in per cent among fractions"
    assert (row.paper_text, row.ours_text) == ("0.849 ± 0.001*", "0.9000 [0.8000, 0.9500]")
    assert found.slips == ("TTL 1: FTL: printed in per cent among fractions",)
    fraction = next(row for row in found.rows if row.table == "TTL 2-mitotic")
    assert fraction.paper_text == "0.925 ± 0.003"


def test_the_difference_is_one_sentence_with_what_is_not_as_the_recipe_says() -> None:
    same = {"schedule": ScheduleSpec(monitor="auprc"), "optim": OptimSpec()}
    found = beside(config("ttl", {**R50, "method": "ttl", "cut": "layer3.3"}, **same), OURS, HERE)
    assert found is not None
    assert found.differs == (
        "there: images of BIMCV-COVID19, weights ImageNet, ± the standard deviation of 3 runs; "
        "here: 40 test images of labels.csv, weights imagenet"
    )
    other = {"split": SplitSpec(train=0.5, val=0.25, test=0.25), "epochs": 4, "learning_rate": 1e-3}
    changed = beside(config("ttl", {**R50, "method": "ttl", "cut": "layer3.3"}, **other, **same), OURS, HERE)
    assert changed is not None
    assert changed.differs.endswith(", and not as the recipe says split 0.5/0.25/0.25, learning_rate 0.001")


def test_the_sentence_names_the_images_of_the_rows_that_are_shown_alone() -> None:
    found = beside(config("feature-reuse", {**R50, "method": "ftl"}), OURS, HERE)
    assert found is not None
    assert found.differs.startswith("there: images of DDSM or CheXpert or Camelyon, weights ImageNet, ")


def test_what_only_others_measure_is_left_out() -> None:
    assert beside(config("ttl", {**R50, "method": "ftl"}), {"dice": Ours(0.9)}, HERE) is None


def test_the_metrics_of_a_test_side_are_read_with_their_intervals() -> None:
    test = {"images": 40, "auroc": 0.9, "auroc_interval": [0.8, 0.95], "auprc": None, "dice": 0.9, "dice_std": 0.1}
    found = ours_of(test)
    assert found["auroc"] == Ours(0.9, (0.8, 0.95))
    assert found["dice"] == Ours(0.9, None, 0.1)
    assert not found.keys() & {"images", "auprc"}


def test_a_recipe_that_is_gone_costs_the_comparison_alone(tmp_path: Path) -> None:
    told = []

    class Telling(Silent):
        def warn(self, message: str) -> None:
            told.append(message)

    gone = config(str(tmp_path / "gone.toml"), {**R50, "method": "ftl"})
    assert paper_of(gone, OURS, HERE, Telling()) == {}
    assert "gone.toml: no such file" in told[0]
    assert paper_of(config(None, {**R50, "method": "ftl"}), OURS, HERE, SILENT) == {}
