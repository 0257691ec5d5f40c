"""`predict --masks` of DICOM: an object beside the PNG, read back by pydicom and highdicom, or a line that says why."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from outlined import train_masks, write_pairs
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from ttl_deploy import __version__
from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run as call
from ttl_deploy.prediction.predict import predict
from ttl_deploy.prediction.predictor import Prediction
from ttl_deploy.spec import Stream

WHOLE = ("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "examples_rgb_color.dcm")
LACKING = ("ExplVR_BigEnd.dcm", "SC_rgb_rle.dcm", "rtdose_1frame.dcm")
"""No patient, no slice thickness, no study."""


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    run = train_masks(write_pairs(tmp_path_factory.mktemp("pairs")), folder / "run")
    place = folder / "artifact"
    assert call(["export", str(run), "--format", "onnx", "--max-dice-drop", "0.2", "--out", str(place)]) == 0
    return place


def scan(name: str) -> str:
    found = get_testdata_file(name, download=False)
    if found is None:
        pytest.skip(f"{name} is not among pydicom's files here")
    return str(found)


def said(unet: Path, names: tuple[str, ...], folder: Path) -> list[Prediction]:
    return list(predict(unet, [scan(name) for name in names], stream=Stream(masks=folder)))


def objects(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.seg.dcm"))


def beside(one: Prediction) -> Path:
    return Path(one.label).with_suffix(".seg.dcm")


@pytest.mark.parametrize("name", WHOLE)
def test_an_object_is_the_png_in_the_images_own_study(name: str, unet: Path, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    (one,) = said(unet, (name,), tmp_path)
    mask = np.asarray(Image.open(one.label)) > 0
    source, made = dcmread(scan(name)), dcmread(beside(one))
    assert made.SOPClassUID.name == "Segmentation Storage" and made.SegmentationType == "BINARY"
    np.testing.assert_array_equal(made.pixel_array.reshape(mask.shape) > 0, mask)
    for tag in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert made.get(tag) == source.get(tag)
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    opened = highdicom.seg.segread(beside(one))
    assert opened.get_source_image_uids() == [
        (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID)
    ]
    back = opened.get_pixels_by_source_instance([source.SOPInstanceUID])
    np.testing.assert_array_equal(back[0, ..., 0] > 0, mask)


def test_it_says_what_drew_what(unet: Path, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    (one,) = said(unet, ("CT_small.dcm",), tmp_path)
    made, manifest = highdicom.seg.segread(beside(one)), open_artifact(unet).manifest
    assert (made.number_of_segments, made.Manufacturer, made.SoftwareVersions) == (1, "ttl-deploy", __version__)
    segment = made.get_segment_description(1)
    assert (segment.segment_label, segment.algorithm_type.value) == ("lung", "AUTOMATIC")
    for code in (segment.segmented_property_category, segment.segmented_property_type):
        assert (code.value, code.scheme_designator) == ("85756007", "SCT")
    drawn_by = segment.algorithm_identification
    assert drawn_by.name == manifest.source.name
    assert len(drawn_by.version) == 16 and manifest.files[manifest.model_file].sha256.startswith(drawn_by.version)


def test_again_it_is_the_same_object_and_two_images_are_two(unet: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    first, second = (
        [dcmread(beside(one)) for one in said(unet, ("CT_small.dcm", "MR_small.dcm"), tmp_path / name)]
        for name in ("a", "b")
    )
    uids = [[made.SOPInstanceUID for made in some] for some in (first, second)]
    assert uids[0] == uids[1] and len(set(uids[0])) == 2


def test_images_that_lack_what_it_needs_are_told_and_keep_their_png(
    unet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom")
    names, masks = (*LACKING, "CT_small.dcm"), tmp_path / "masks"
    given = [scan(name) for name in names]
    assert call(["predict", str(unet), *given, "--masks", str(masks), "--format", "jsonl"]) == 0
    error = capsys.readouterr().err
    for path in given[:-1]:
        (line,) = [line for line in error.splitlines() if path in line]
        assert "has only a PNG mask and no DICOM Segmentation" in line
    assert [path.name for path in objects(masks)] == ["CT_small.dcm.seg.dcm"]
    assert len(list(masks.rglob("*.png"))) == len(names)


def test_without_highdicom_one_line_says_so(
    unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    masks = tmp_path / "masks"
    given = [scan(name) for name in WHOLE]
    assert call(["predict", str(unet), *given, "--masks", str(masks), "--format", "jsonl"]) == 0
    assert capsys.readouterr().err.count("pip install 'ttl-deploy[medical]'") == 1
    assert not objects(masks) and len(list(masks.rglob("*.png"))) == len(WHOLE)


def test_a_picture_that_is_no_dicom_gets_none(unet: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "a.png")
    list(predict(unet, [str(tmp_path / "a.png")], stream=Stream(masks=tmp_path / "masks")))
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 1 and not objects(tmp_path / "masks")
