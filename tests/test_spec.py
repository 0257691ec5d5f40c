"""The records: what they refuse, and that an older program tells a newer record instead of half-reading it."""

from pathlib import Path

import pytest

from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.spec import (
    INPUT_VERSION,
    AugmentSpec,
    ModelSpec,
    PreprocessSpec,
    SplitSpec,
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
    ],
)
def test_what_cannot_be_is_one_line(kind: type, fields: dict[str, object], said: str) -> None:
    with pytest.raises(BadInputError) as caught:
        make_record(kind, **fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


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
