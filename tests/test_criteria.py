"""Acceptance criteria in a file: every field known, every value in range, and no option that moves one."""

from pathlib import Path

import pytest

from ttl_deploy import files
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Bounds, read_criteria, refuse_other_bounds

TEXT = "bounds: {max_auroc_drop: 0.01}\nminimum: {auroc: 0.9, sensitivity: 0.85}\nmaximum: {size_mib: 20}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "criteria.yaml"
    place.write_text(TEXT)
    return place


def test_what_a_file_says(path: Path) -> None:
    found = read_criteria(path)
    assert found.criteria.by == "interval"
    assert (found.criteria.minimum.auroc, found.criteria.minimum.sensitivity) == (0.9, 0.85)
    assert found.criteria.minimum.specificity is None
    assert found.criteria.maximum.size_mib == 20
    assert found.bounds == ("max_auroc_drop",)
    assert found.sha256 == files.sha256(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("minimum: {auc: 0.9}", ("'minimum.auc'", "auroc", "sensitivity", "dice")),
        ("minimums: {auroc: 0.9}\nminimum: {auroc: 0.9}", ("'minimums'", "bounds, minimum, maximum")),
        ("bounds: {max_drop: 0.9}", ("'bounds.max_drop'", "max_auroc_drop")),
        ("minimum: {auroc: 1.5}", ("minimum.auroc", "1.5")),
        ("minimum: {auroc: true}", ("minimum.auroc", "True")),
        ("minimum: {auroc: '0.9'}", ("minimum.auroc", "'0.9'")),
        ("maximum: {parameters: 0.5}", ("maximum.parameters",)),
        ("minimum: [auroc]", ("minimum is ['auroc']",)),
        ("by: median\nminimum: {auroc: 0.9}", ("by", "median")),
        ("{}", ("asks for nothing", "bounds, minimum, maximum")),
        ("minimum: {}", ("asks for nothing",)),
        ("- auroc", ("asks for nothing",)),
        ("subgroups: {}", ("asks for nothing", "bounds, minimum, maximum, subgroups")),
        ("subgroups: [sex]", ("subgroups is ['sex']",)),
        ("subgroups: {sex: 0.85}", ("subgroups.sex is 0.85", "by, minimum, bounds, groups")),
        ("subgroups: {sex: {auroc: 0.85}}", ("'subgroups.sex.auroc'", "minimum")),
        ("subgroups: {sex: {minimum: {}}}", ("subgroups.sex asks for nothing", "bounds, minimum, groups")),
        ("subgroups: {sex: {minimum: {auc: 0.85}}}", ("'subgroups.sex.minimum.auc'", "auroc")),
        ("subgroups: {sex: {minimum: {auroc: 85}}}", ("subgroups.sex.minimum.auroc", "85")),
        ("subgroups: {sex: {by: median, minimum: {auroc: 0.8}}}", ("subgroups.sex.by", "median")),
        ("subgroups: {sex: {bounds: {max_drop: 0.1}}}", ("'subgroups.sex.bounds.max_drop'", "max_auroc_drop")),
        ("subgroups: {sex: {groups: [f]}}", ("subgroups.sex.groups is ['f']",)),
        ("subgroups: {sex: {groups: {f: 0.9}}}", ("subgroups.sex.groups.f is 0.9", "auroc")),
        ("subgroups: {sex: {groups: {f: {auc: 0.9}}}}", ("'subgroups.sex.groups.f.auc'",)),
        ("subgroups: {sex: {groups: {1: {auroc: 0.9}}}}", ("key 1", "no name without quotes")),
    ],
)
def test_a_file_that_says_something_else_is_one_clear_line(path: Path, text: str, words: tuple[str, ...]) -> None:
    path.write_text(text)
    with pytest.raises(BadInputError) as refused:
        read_criteria(path)
    said = str(refused.value)
    assert str(path) in said
    assert all(word in said for word in words), said
    assert "\n" not in said


def test_a_group_has_the_floors_of_every_group_but_where_it_has_its_own(path: Path) -> None:
    path.write_text(
        "minimum: {auroc: 0.9}\n"
        "subgroups:\n"
        "  sex: {by: value, minimum: {auroc: 0.85, auprc: 0.5}, groups: {f: {auroc: 0.8}}}\n"
        "  site: {bounds: {preset: mlperf-99}}\n"
    )
    file = read_criteria(path)
    sex, site = file.criteria.subgroups["sex"], file.criteria.subgroups["site"]
    assert (sex.by, site.by) == ("value", None)
    assert (sex.floors("m").auroc, sex.floors("f").auroc, sex.floors("f").auprc) == (0.85, 0.8, 0.5)
    assert file.subgroups == {"sex": ("f",), "site": ()}
    assert file.subgroup_bounds == {"sex": (), "site": ("preset",)}
    assert site.bounds.min_metric_ratio == 0.99


def test_no_file_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="minimum, maximum, bounds and subgroups"):
        read_criteria(tmp_path / "none.yaml")


def test_an_option_may_repeat_the_file_and_not_contradict_it(path: Path) -> None:
    file = read_criteria(path)
    refuse_other_bounds(Bounds(), file)
    refuse_other_bounds(Bounds(max_auroc_drop=0.01), file)
    with pytest.raises(BadInputError, match=r"--max-auroc-drop: contradicts .* says 0.01"):
        refuse_other_bounds(Bounds(max_auroc_drop=0.02), file)
    with pytest.raises(BadInputError, match=r"--min-label-agreement: contradicts .* does not say it"):
        refuse_other_bounds(Bounds(min_label_agreement=0.5), file)
    with pytest.raises(BadInputError, match="--preset"):
        refuse_other_bounds(Bounds(preset="mlperf-99"), file)
