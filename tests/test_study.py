"""Studies as archives keep them become one array, the same from every kind of file, or are refused in one line."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_files

from tests.studies import hounsfield, write_series
from ttl_deploy.errors import TtlDeployError, UnreadableImageError
from ttl_deploy.inputs.reading import load_input
from ttl_deploy.inputs.study import read_study
from ttl_deploy.spec import InputSpec, PreprocessSpec

SHAPE = (5, 6, 7)
VALUES = hounsfield(*SHAPE)
RULE = PreprocessSpec.of(InputSpec(kind="volume", channels=1, size=(8, 16, 16)))


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableImageError) as raised:
        read_study(path, str(path))
    said = str(raised.value)
    assert "\n" not in said
    assert str(path) in said
    return said


def nifti(path: Path, values: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
    """Values (x, y, z), by default to the right, the front and the head."""
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.5, 1.0]) if affine is None else affine), path)
    return path


def changed(path: Path, offset: int, content: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(whole)


def test_slices_are_ordered_by_their_positions_and_rescaled(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VALUES, spacing=(2.5, 0.7, 0.8))
    study = read_study(tmp_path / "s", "s")
    np.testing.assert_array_equal(study.values, VALUES)
    assert study.spacing == pytest.approx((2.5, 0.7, 0.8))


def test_without_positions_the_numbers_order_them(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VALUES, positions=False)
    np.testing.assert_array_equal(read_study(tmp_path / "s", "s").values, VALUES)


@pytest.mark.parametrize(
    ("directions", "turned"),
    [
        # Columns to the right instead of the left; the slices then go from the head to the feet.
        ((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), lambda v: v[::-1, :, ::-1]),
        # Coronal: rows from head to feet, columns to the left, slices from front to back.
        ((1.0, 0.0, 0.0, 0.0, 0.0, -1.0), lambda v: v.transpose(1, 0, 2)[::-1]),
        # Sagittal: rows from head to feet, columns to the back, slices from left to right.
        ((0.0, 1.0, 0.0, 0.0, 0.0, -1.0), lambda v: v.transpose(1, 2, 0)[::-1, :, ::-1]),
    ],
)
def test_other_directions_are_turned_to_the_patients(directions: Any, turned: Any, tmp_path: Path) -> None:
    write_series(tmp_path / "s", VALUES, directions=directions)
    np.testing.assert_array_equal(read_study(tmp_path / "s", "s").values, turned(VALUES))


def test_nifti_of_all_48_orientations_is_the_same_study(tmp_path: Path) -> None:
    """nibabel turns them alike; ours grows to the left, back and head instead of the right, front and head."""
    upright = np.ascontiguousarray(VALUES.transpose(2, 1, 0)[::-1, ::-1])
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turned = np.ascontiguousarray(upright.transpose(axes)[tuple(slice(None, None, s) for s in signs)])
            affine = np.zeros((4, 4))
            affine[3, 3] = 1
            for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
                affine[axis, column] = sign * (1.0, 1.5, 2.5)[axis]
            canonical: Any = nibabel.as_closest_canonical(nibabel.Nifti1Image(turned, affine))
            np.testing.assert_array_equal(canonical.get_fdata(), upright)
            study = read_study(nifti(tmp_path / "x.nii", turned, affine), "x")
            np.testing.assert_array_equal(study.values, VALUES)
            assert study.spacing == pytest.approx((2.5, 1.5, 1.0))


def test_nifti_is_scaled_as_its_header_says(tmp_path: Path) -> None:
    upright = VALUES.transpose(2, 1, 0)[::-1, ::-1]
    image: Any = nibabel.Nifti1Image((upright + 1024).astype(np.int16), np.diag([1.0, 1.0, 2.5, 1.0]))
    image.header.set_slope_inter(1, -1024)
    nibabel.save(image, tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_study(tmp_path / "x.nii.gz", "x").values, VALUES)


def test_the_three_kinds_of_files_give_the_same_pixels(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VALUES)
    np.save(tmp_path / "x.npy", VALUES)
    nifti(tmp_path / "x.nii.gz", np.ascontiguousarray(VALUES.transpose(2, 1, 0)[::-1, ::-1]))
    found = [load_input(tmp_path / name, RULE) for name in ("s", "x.npy", "x.nii.gz")]
    for pixels in found[1:]:
        np.testing.assert_array_equal(pixels, found[0])


def test_a_folder_of_no_volume_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "s"
    files = write_series(place, VALUES)
    files[2].unlink()
    assert "a slice is missing between" in (said := refusal(place))
    assert "5 mm, where 2.5 are usual" in said
    (place / "again").write_bytes(files[1].read_bytes())
    assert "lie at the same place" in refusal(place)
    for name in files[1:]:
        name.unlink(missing_ok=True)
    (place / "again").unlink()
    assert "holds 1 slice with pixels" in refusal(place)
    files[0].unlink()
    assert "holds no DICOM" in refusal(place)


def test_several_volumes_in_a_folder_are_told_apart(tmp_path: Path) -> None:
    for number, (tags, said) in enumerate(
        [
            ({}, "holds slices of 2 series"),
            ({"SeriesInstanceUID": "1.2.3"}, "differ in direction"),
            ({"SeriesInstanceUID": "1.2.3", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "differ in size"),
        ]
    ):
        place = tmp_path / str(number)
        write_series(place, VALUES, **({k: v for k, v in tags.items() if k == "SeriesInstanceUID"}))
        other = VALUES[:, :, :-1] if "size" in said else VALUES
        turned = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0) if "direction" in said else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        more = write_series(tmp_path / f"{number}b", other, directions=turned, **tags)
        (place / "other").write_bytes(more[0].read_bytes())
        assert said in refusal(place)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PixelSpacing": None}, "is a slice without PixelSpacing"),
        ({"ImagePositionPatient": None, "InstanceNumber": None}, "neither ImagePositionPatient nor InstanceNumber"),
        ({"NumberOfFrames": 2}, "holds 2 frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PixelData": b"\0" * 252}, "is a slice of colour"),
        ({"PixelData": b"\0\0"}, "is damaged DICOM"),
    ],
)
def test_a_slice_that_is_none_is_named(tags: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_series(tmp_path / "s", VALUES, **tags)
    assert said in refusal(tmp_path / "s")


def test_a_report_beside_the_slices_is_none(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", VALUES)
    report = pydicom.dcmread(files[0])
    for tag in ("Rows", "Columns", "PixelData"):
        delattr(report, tag)
    report.SeriesInstanceUID = "1.2.3"
    report.save_as(tmp_path / "s" / "report")
    np.testing.assert_array_equal(read_study(tmp_path / "s", "s").values, VALUES)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: nifti(p, np.zeros((4, 4, 4, 2), np.int16)), "is NIfTI of shape 4 x 4 x 4 x 2"),
        (lambda p: nifti(p, np.zeros((4, 4), np.int16)), "which is no single volume"),
        (lambda p: nifti(p, np.zeros((4, 4, 4), np.complex64)), "voxels of type complex64"),
        (lambda p: changed(nifti(p, np.zeros((4, 4, 4), np.int16)), 312, bytes(16)), "how its voxels lie"),
        (lambda p: p.write_bytes(b""), "is empty (0 bytes)"),
        (lambda p: p.write_bytes(b"hello" * 200), "is no volume"),
        (lambda p: p.write_bytes(b"\x1f\x8bnot gzip at all" * 99), "is no volume"),
    ],
)
def test_a_file_of_no_volume_is_one_line(make: Any, said: str, tmp_path: Path) -> None:
    make(tmp_path / "x.nii")
    assert said in refusal(tmp_path / "x.nii")


def test_what_nifti_declares_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A file of some kilobytes that says it holds gigabytes, or that its voxels begin far away."""
    for offset, content, said in (
        (40, np.array([3, 30000, 30000, 30000], "<i2"), "voxels are more than the limit"),
        (108, np.array([1e9], "<f4"), "voxels begin beyond its header"),
    ):
        path = nifti(tmp_path / "x.nii", np.zeros((4, 4, 4), np.int16))
        changed(path, offset, content.tobytes())
        packed = tmp_path / "x.nii.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert said in refusal(path)
        assert said in refusal(packed)


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    path = nifti(tmp_path / "x.nii.gz", np.ascontiguousarray(VALUES))
    path.write_bytes(path.read_bytes()[:-60])
    assert "is damaged" in refusal(path)


def test_arrays_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for values, said in (
        (np.zeros((4, 4), np.int16), "an array of shape (4, 4) is no volume"),
        (np.zeros((4, 4, 4), bool), "voxels of type bool"),
        (np.array([{}], object), "pickled objects"),
    ):
        np.save(path, values)
        assert said in refusal(path)


def test_a_file_that_is_gone_or_one_slice_alone(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "gone.nii")
    files = write_series(tmp_path / "s", VALUES)
    assert "is one DICOM file, and a study is the folder of its slices" in refusal(files[0])


def test_every_file_of_pydicom_is_read_or_refused_in_one_line() -> None:
    """And every folder of theirs; the series of five slices among them is read."""
    files = [Path(name) for name in get_testdata_files()]
    folders = sorted({path.parent for path in files})
    read = []
    for path in (*files, *folders):
        try:
            load_input(path, RULE)
            read.append(path.name)
        except TtlDeployError as error:
            assert len(str(error).splitlines()) == 1
    assert set(read) == {"CT5N"}
