"""A study as windows of slices: where they begin, what of the study they hold, and what is said of them together."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from tests.studies import hounsfield
from ttl_deploy.errors import BadInputError
from ttl_deploy.inputs.study import Study
from ttl_deploy.inputs.volume import array_pixels, study_pixels
from ttl_deploy.inputs.windows import inputs_of, window_starts
from ttl_deploy.spec import InputSpec, PreprocessSpec, TaskSpec, VolumeSpec, make_record
from ttl_deploy.tasks import make_task


def rule(
    stride: int | None, size: tuple[int, int, int] = (8, 8, 8), channels: int = 1, **more: object
) -> PreprocessSpec:
    given = InputSpec(kind="volume", channels=channels, size=size)
    return PreprocessSpec.of(given, volume=make_record(VolumeSpec, slice_stride=stride, **more))


@pytest.mark.parametrize(
    ("slices", "stride", "starts"),
    [
        (8, 8, [0]),
        (9, 8, [0, 1]),
        (16, 8, [0, 8]),
        (17, 8, [0, 8, 9]),
        (20, 4, [0, 4, 8, 12]),
        (21, 4, [0, 4, 8, 12, 13]),
        (10, 1, [0, 1, 2]),
    ],
)
def test_windows_begin_every_stride_and_the_last_ends_with_the_study(
    slices: int, stride: int, starts: list[int]
) -> None:
    assert window_starts(slices, 8, stride).tolist() == starts


def test_the_windows_hold_the_study_slice_by_slice() -> None:
    values = np.random.default_rng(0).integers(0, 256, (21, 8, 8), np.uint8)
    whole = array_pixels(values, rule(8), "x")
    np.testing.assert_array_equal(whole[..., 0], values, err_msg="slices stay as they are")
    windows = inputs_of(whole, rule(8))
    for window, start in zip(windows, (0, 8, 13), strict=True):
        np.testing.assert_array_equal(window[..., 0], values[start : start + 8])
        assert window.base is not None, "no copy"


def test_rows_and_columns_are_resized_as_in_a_study_that_is_one_input() -> None:
    values = hounsfield(8, 20, 30)
    one = array_pixels(values, rule(None), "x")
    np.testing.assert_array_equal(array_pixels(values, rule(8), "x"), one)
    twice = array_pixels(np.concatenate([values, values]), rule(8), "x")
    np.testing.assert_array_equal(twice, np.concatenate([one, one]))


def test_a_short_study_has_black_before_and_after() -> None:
    found = array_pixels(np.full((5, 8, 8), 900, np.int16), rule(4), "x")
    assert found[:, 0, 0, 0].tolist() == [0, 255, 255, 255, 255, 255, 0, 0]
    assert len(inputs_of(found, rule(4))) == 1


def test_a_spacing_keeps_all_the_millimetres_along_the_slices() -> None:
    """12 slices of 3 mm are 36 mm, at 2 mm 18 slices; within the slice the centre is taken."""
    values = np.zeros((12, 16, 16), np.float32)
    values[6:, 4:12, 4:12] = 255
    found = study_pixels(Study(values, (3.0, 1.0, 1.0)), rule(5, window=(0, 255), spacing=(2, 1, 1)), "x")[..., 0]
    assert found.shape == (18, 8, 8)
    assert (found[:8] == 0).all()
    assert (found[10:] == 255).all()
    assert window_starts(18, 8, 5).tolist() == [0, 5, 10]


def test_grey_is_repeated_in_every_window() -> None:
    values = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    for window, start in zip(
        inputs_of(array_pixels(values, rule(8, channels=3), "x"), rule(8, channels=3)), (0, 4), strict=True
    ):
        np.testing.assert_array_equal(window, np.repeat(values[start : start + 8, ..., None], 3, axis=-1))


def test_a_stride_that_leaves_slices_out_is_refused() -> None:
    with pytest.raises(ValidationError, match="windows of 8 slices, one every 9, leave slices out"):
        rule(9)
    with pytest.raises(BadInputError, match="greater than or equal to 1"):
        rule(0)


def test_a_file_without_windows_is_as_it_always_was() -> None:
    assert "slice_stride" not in rule(None).model_dump_json()
    assert PreprocessSpec.model_validate_json(rule(4).model_dump_json()) == rule(4)
    assert rule(4).pixel_digest() != rule(None).pixel_digest()


OUTPUTS = np.array([[1, 5], [4, -1], [2, 7], [-3, -2], [0, 0], [-6, 3]], np.float32)
COUNTS = np.array([3, 1, 2])


def test_each_label_has_the_maximum_of_its_own_windows() -> None:
    task = make_task(TaskSpec(kind="multilabel"), ("a", "b"))
    assert task.gather(OUTPUTS, COUNTS).tolist() == [[4, 7], [-3, -2], [0, 3]]


def test_of_two_classes_the_window_that_says_most_for_the_second_speaks() -> None:
    task = make_task(TaskSpec(), ("no", "yes"))
    found = task.gather(OUTPUTS, COUNTS)
    # Their leads are 4, -5, 5; 1; 0, 9.
    assert found.tolist() == [[2, 7], [-3, -2], [-6, 3]]
    alone = task.probabilities(OUTPUTS)[:, 1]
    assert task.probabilities(found)[:, 1].tolist() == [max(alone[:3]), alone[3], max(alone[4:])]


def test_images_that_are_one_input_each_keep_what_was_said_whatever_the_task() -> None:
    outputs = np.eye(3, dtype=np.float32)
    task = make_task(TaskSpec(), ("a", "b", "c"))
    assert task.gather(outputs, np.ones(3, np.int64)) is outputs
    with pytest.raises(ValueError, match="of 3 exclusive classes there is no maximum"):
        task.gather(outputs, np.array([2, 1]))
    with pytest.raises(ValueError, match="3 outputs are not those of 4 windows"):
        task.gather(outputs, np.array([2, 2]))


def test_a_window_that_is_no_number_is_not_passed_over() -> None:
    broken = OUTPUTS.copy()
    broken[1] = np.nan
    for task in (make_task(TaskSpec(kind="multilabel"), ("a", "b")), make_task(TaskSpec(), ("a", "b"))):
        assert np.isnan(task.gather(broken, COUNTS)[0]).any()
