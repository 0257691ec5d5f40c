"""DICOM: the rule by hand on written files, pydicom's own sample files, and every refusal in one line."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ttl_deploy.errors import MissingDependencyError, UnreadableImageError
from ttl_deploy.preprocess import load_pixels
from ttl_deploy.spec import PreprocessSpec

pydicom = pytest.importorskip("pydicom")

SPEC = PreprocessSpec(image_size=8, channels=1, crop="none", mean=(0.5,), std=(0.5,))


def dicom(values: NDArray[Any] | None, **tags: Any) -> bytes:
    """A DICOM file of grey pixels, 12 of 16 bits unless told otherwise."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    if values is not None:
        dataset.Rows, dataset.Columns = values.shape
        dataset.BitsAllocated = 8 * values.dtype.itemsize
        dataset.BitsStored = min(12, dataset.BitsAllocated)
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(values.dtype.kind == "i")
        dataset.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def pixels(content: bytes, spec: PreprocessSpec = SPEC) -> NDArray[np.uint8]:
    return load_pixels(content, spec)[..., 0]


RAMP = (np.arange(64, dtype=np.uint16) * 65).reshape(8, 8)
"""0 to 4095 in steps of 65: the whole range of 12 bits."""


def test_without_a_window_the_stored_bits_are_the_range() -> None:
    """65 k of 4095, in two rounded steps: to 16 bits, and from there to 8."""
    deep = np.floor(RAMP / 4095 * 65535 + 0.5)
    np.testing.assert_array_equal(pixels(dicom(RAMP)), np.floor((deep + 128) / 257))
    half = RAMP // 2
    assert pixels(dicom(half)).max() == round(int(half.max()) / 4095 * 255)


def test_eight_bits_stay_as_they_are() -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(dicom(values)), values)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    np.testing.assert_array_equal(pixels(dicom(values)), pixels(stream.getvalue()))


def test_a_window_by_the_standards_formula() -> None:
    """PS3.3 C.11.2.1.2.1, with centre 1000 and width 401: from 799.5 to 1199.5."""
    shown = np.clip((RAMP.astype(float) - 999.5) / 400 + 0.5, 0, 1)
    found = pixels(dicom(RAMP, WindowCenter=1000, WindowWidth=401))
    np.testing.assert_allclose(found, shown * 255, atol=0.51)
    assert found.min() == 0
    assert found.max() == 255


def test_the_rescale_comes_before_the_window() -> None:
    """CT numbers: stored 0..4095 are -1024..3071; a lung window of -600 and 1500."""
    hounsfield = RAMP.astype(float) - 1024
    shown = np.clip((hounsfield + 600.5) / 1499 + 0.5, 0, 1)
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": [-600, 40], "WindowWidth": [1500, 400]}
    np.testing.assert_allclose(pixels(dicom(RAMP, **tags)), shown * 255, atol=0.51)


def test_signed_pixels_and_a_negative_slope() -> None:
    signed = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    np.testing.assert_array_equal(pixels(dicom(signed)), pixels(dicom(RAMP)))
    turned = pixels(dicom(RAMP, RescaleSlope=-1, RescaleIntercept=0)).astype(int)
    np.testing.assert_allclose(turned, 255 - pixels(dicom(RAMP)).astype(int), atol=1)


def test_monochrome1_is_inverted() -> None:
    plain = pixels(dicom(RAMP)).astype(int)
    inverted = pixels(dicom(RAMP, PhotometricInterpretation="MONOCHROME1")).astype(int)
    np.testing.assert_allclose(inverted, 255 - plain, atol=1)
    assert inverted[0, 0] == 255


def test_a_voi_lut_is_preferred_to_a_window() -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    entries = (np.arange(4096, dtype=np.uint32) ** 2 // 256).astype(np.uint16)
    table.add_new("LUTData", "OW", entries.tobytes())
    found = pixels(dicom(RAMP, VOILUTSequence=Sequence([table]), WindowCenter=10, WindowWidth=10))
    np.testing.assert_array_equal(found, (entries[RAMP].astype(int) + 128) // 257)


def test_high_bit_depth_min_max_stretches_what_the_window_shows() -> None:
    spec = SPEC.model_copy(update={"high_bit_depth": "min-max"})
    found = pixels(dicom(RAMP // 4 + 100), spec)
    assert (found.min(), found.max()) == (0, 255)


def test_samples_of_pydicom_are_read() -> None:
    """Other people's files: a CT, an MR in four encodings, colour, palette; JPEG 2000 and RLE without more packages."""
    folder = Path(str(pydicom.__file__)).parent / "data" / "test_files"
    spec = PreprocessSpec(image_size=32)
    names = ("MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless")
    first, *others = (load_pixels(folder / f"{name}.dcm", spec) for name in names)
    assert first.std() > 10
    for other in others:
        np.testing.assert_array_equal(other, first)
    colours = load_pixels(folder / "SC_rgb_rle.dcm", spec)
    assert np.ptp(colours.reshape(-1, 3).mean(axis=0)) >= 0
    assert (colours[..., 0] != colours[..., 1]).any()
    assert load_pixels(folder / "examples_palette.dcm", spec).std() > 10


def test_a_dicom_without_its_ending_is_known(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(dicom(RAMP))
    np.testing.assert_array_equal(load_pixels(tmp_path / "IM0001", SPEC)[..., 0], pixels(dicom(RAMP)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (dicom(None), "DICOM without pixels (Digital X-Ray"),
        (dicom(RAMP)[:-5], "damaged DICOM"),
        (dicom(RAMP)[:200], "DICOM"),
        (b"not dicom at all" * 20, "no DICM mark"),
        (b"", "0 bytes"),
        (dicom(RAMP, NumberOfFrames=30), "30 frames"),
        (dicom(RAMP, Rows=60000, Columns=60000), "more than the limit"),
        (dicom(RAMP, Rows=60), "damaged DICOM"),
        (dicom(RAMP, WindowCenter=5, WindowWidth=0), "Window Width"),
    ],
)
def test_what_is_no_image_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "scan.dcm").write_bytes(content)
    with pytest.raises(UnreadableImageError) as caught:
        load_pixels(tmp_path / "scan.dcm", SPEC)
    assert said in str(caught.value)
    assert "scan.dcm" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(np.zeros((2000, 2000), dtype=np.uint16), syntax="1.2.840.10008.1.2.1.99"))
    with pytest.raises(UnreadableImageError, match="deflated"):
        load_pixels(tmp_path / "a.dcm", SPEC)


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(RAMP))
    monkeypatch.setattr("ttl_deploy.dicom.importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"ttl-deploy\[medical\]"):
        load_pixels(tmp_path / "a.dcm", SPEC)


def test_training_reads_the_same_files(tmp_path: Path) -> None:
    """A folder of DICOM per class is a data set, through the one rule."""
    from ttl_deploy.data.read_folder import read_folder

    for name in ("ill", "well"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.dcm").write_bytes(dicom(RAMP))
    entries = read_folder(tmp_path).entries
    assert [entry.id for entry in entries] == ["ill/a.dcm", "well/a.dcm"]
    np.testing.assert_array_equal(entries[0].source.pixels(SPEC)[..., 0], pixels(dicom(RAMP)))
