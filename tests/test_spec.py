"""The records: what they refuse, and that an older program tells a newer record instead of half-reading it."""

from pathlib import Path

import pytest

from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.spec import (
    INPUT_VERSION,
    AugmentSpec,
    Bounds,
    ModelSpec,
    Placement,
    PreprocessSpec,
    Scenario,
    SplitSpec,
    Stream,
    make_record,
    read_record,
)


def test_defaults_are_the_papers_protocol() -> None:
    """Appendix A.1 of Peng 2023: 64/16/20, ImageNet statistics, 224 pixels."""
    split = SplitSpec()
    assert (split.train, split.val, split.test) == (0.64, 0.16, 0.20)
    preprocess = PreprocessSpec()
    assert preprocess.input.size == (224, 224)
    assert preprocess.mean == (0.485, 0.456, 0.406)


def test_a_round_trip_keeps_the_digest() -> None:
    spec = ModelSpec(backbone="resnet50", method="ttl", cut="layer3.3", classes=("a", "b"))
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.digest() == spec.digest()
    assert spec.model_copy(update={"cut": "layer3.2"}).digest() != spec.digest()


def test_mean_and_std_do_not_change_the_pixels() -> None:
    plain, other = PreprocessSpec(), PreprocessSpec(mean=(0.5, 0.5, 0.5))
    assert plain.pixel_digest() == other.pixel_digest()
    assert plain.digest() != other.digest()
    assert plain.pixel_digest() != PreprocessSpec(crop="none").pixel_digest()


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (SplitSpec, {"train": 0.8, "val": 0.2, "test": 0.2}, "add up to 1.2"),
        (SplitSpec, {"folds": 5}, "given together"),
        (SplitSpec, {"folds": 5, "fold": 5}, "folds are 0 to 4"),
        (PreprocessSpec, {"mean": (0.5,)}, "3 values"),
        (PreprocessSpec, {"std": (0.0, 1.0, 1.0)}, "positive"),
        (PreprocessSpec, {"image_size": 5000}, "size"),
        (ModelSpec, {"backbone": "resnet50", "classes": ("one",)}, "classes"),
        (AugmentSpec, {"rotation": -1}, "rotation"),
        (AugmentSpec, {"rotatoin": 1}, "rotatoin"),
        (Placement, {"threads": 0}, "threads"),
        (Placement, {"device": "tpu"}, "unknown device 'tpu'; valid: cpu, cuda"),
        (Placement, {"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES=1"),
        (Placement, {"device": 0}, "device"),
        (Stream, {"engine": "rya"}, "unknown engine 'rya'"),
        (Stream, {"address": "auto"}, "--address is of a Ray cluster"),
        (Scenario, {"kind": "server"}, "needs a latency bound"),
        (Scenario, {"queries": 5}, "--queries: means nothing in scenario single-stream"),
        (Bounds, {"preset": "mlperf"}, "unknown preset 'mlperf'"),
        (Bounds, {"max_auroc_drop": 2}, "max_auroc_drop"),
    ],
)
def test_what_cannot_be_is_one_line(kind: type, fields: dict[str, object], said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        make_record(kind, **fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_placement_knows_the_words_of_other_tools_and_its_changes_are_judged_too() -> None:
    where = Placement(device="GPU", threads=2)
    assert (where.device, where.replace(runtime="onnxruntime").threads) == ("cuda", 2)
    assert where.replace(device="cuda:0") == where
    with pytest.raises(BadInputError, match="unknown device"):
        where.replace(device="tpu")


def test_what_is_said_beside_a_preset_counts_and_the_rest_is_the_presets() -> None:
    bounds = Bounds(preset="mlperf-99", max_probability_difference=0.2).filled("fp32")
    assert (bounds.min_metric_ratio, bounds.max_probability_difference) == (0.99, 0.2)
    assert (bounds.max_auroc_drop, bounds.min_label_agreement, bounds.max_logit_difference) == (1, 0, None)


def test_only_the_images_of_the_offline_scenario_are_shared_among_rounds() -> None:
    assert Scenario(kind="offline", queries=10).part(3).queries == 4
    for whole in (Scenario(), Scenario(kind="server", latency_bound=5, queries=10)):
        assert whole.part(3) == whole


def test_a_newer_record_is_told() -> None:
    from ttl_deploy.spec import TrainConfig

    with pytest.raises(IntegrityError, match=f"newer than this program's {INPUT_VERSION}"):
        read_record(TrainConfig, {"schema_version": INPUT_VERSION + 1}, Path("config.yaml"))
    with pytest.raises(IntegrityError, match=r"config\.yaml.*data"):
        read_record(TrainConfig, {}, Path("config.yaml"))


def test_a_spec_without_options_of_another_package_reads_as_before_there_were_any() -> None:
    spec = ModelSpec(backbone="resnet18", classes=("a", "b"))
    assert spec.digest() == "6a78066288a87bc5367cf9670537be87ea1d36d527150309421be2ec735dfcf6"
    theirs = ModelSpec(backbone="resnet18", classes=("a", "b"), method_options={"power": 3})
    assert theirs.model_dump(mode="json")["method_options"] == {"power": 3}
    assert ModelSpec.model_validate_json(theirs.model_dump_json()) == theirs
    assert len({spec, theirs, ModelSpec.model_validate(spec.model_dump())}) == 2
