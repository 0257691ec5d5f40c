"""DICOM: the rule by hand on written files, pydicom's own sample files, and every refusal in one line."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from undecoded import hide_decoders

from ttl_deploy.errors import MissingDependencyError, UnreadableImageError
from ttl_deploy.inputs.image import load_pixels
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


def mpeg() -> bytes:
    """A transfer syntax that no package decodes here."""
    from pydicom.encaps import encapsulate

    return dicom(RAMP, syntax="1.2.840.10008.1.2.4.100", PixelData=encapsulate([b"\0" * 100]))


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
        (dicom(RAMP, Rows=None), "Rows has no value"),
        (dicom(RAMP, PhotometricInterpretation="HSV"), "photometric interpretation 'HSV'"),
        (dicom(RAMP, WindowCenter=5, WindowWidth=9, VOILUTFunction="CUBIC"), "unknown VOI LUT function 'CUBIC'"),
        (mpeg(), "MPEG2"),
    ],
)
def test_what_is_no_image_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "scan.dcm").write_bytes(content)
    with pytest.raises(UnreadableImageError) as caught:
        load_pixels(tmp_path / "scan.dcm", SPEC)
    assert said in str(caught.value)
    assert "scan.dcm" in str(caught.value)
    assert "\n" not in str(caught.value)


EMPTY: dict[str, Any] = {"WindowCenter": None, "WindowWidth": None}


def table(entries: NDArray[Any] | None, first: int = 0, bits: int = 16) -> Any:
    """A sequence of one look-up table."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.add_new("LUTDescriptor", "US", None if entries is None else [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", None if entries is None else entries.tobytes())
    return Sequence([item])


def group(macro: str, **tags: Any) -> Any:
    """A functional group of one macro."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    inner, outer = Dataset(), Dataset()
    for name, value in tags.items():
        setattr(inner, name, value)
    setattr(outer, macro, Sequence([inner]))
    return Sequence([outer])


@pytest.mark.parametrize(
    "tags",
    [
        EMPTY,
        {"WindowWidth": "4096"},
        {"WindowCenter": "2048"},
        {"WindowCenter": "2048", "WindowWidth": None},
        {"WindowCenter": "2048", "WindowWidth": "0"},
        {"WindowCenter": "2048", "WindowWidth": "-5", "VOILUTFunction": "SIGMOID"},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"VOILUTSequence": table(None)},
        {"VOILUTSequence": []},
        {"ModalityLUTSequence": table(None)},
        {"VOILUTFunction": ""},
        {"PixelPaddingValue": None},
        {"NumberOfFrames": None},
        {"SamplesPerPixel": None},
        {"HighBit": None},
        {"PixelRepresentation": None},
        {"PhotometricInterpretation": "monochrome2"},
        {"PhotometricInterpretation": "MONOCHROME2 "},
        {"PhotometricInterpretation": None},
        {"SharedFunctionalGroupsSequence": group("FrameVOILUTSequence", **EMPTY)},
        {"PerFrameFunctionalGroupsSequence": []},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_a_tag_without_a_value_is_an_absent_tag(tags: dict[str, Any]) -> None:
    np.testing.assert_array_equal(pixels(dicom(RAMP, **tags)), pixels(dicom(RAMP)))


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"VOILUTSequence": table(None)},
        {"VOILUTFunction": ""},
        {"VOILUTFunction": "linear "},
        {"WindowCenter": [1000, 40], "WindowWidth": [401, 80]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_a_window_beside_empty_tags_is_the_window(tags: dict[str, Any]) -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 401}
    np.testing.assert_array_equal(pixels(dicom(RAMP, **(window | tags))), pixels(dicom(RAMP, **window)))


def test_an_intercept_without_a_slope_shifts_what_the_window_sees() -> None:
    """Slope 1: stored 1424 is 400, the upper end of the window of 200 and 401; 1023 its lower end."""
    found = pixels(dicom(RAMP, RescaleIntercept="-1024", WindowCenter="200", WindowWidth="401"))
    shown = np.clip((RAMP.astype(float) - 1024 - 199.5) / 400 + 0.5, 0, 1)
    np.testing.assert_allclose(found, shown * 255, atol=0.51)
    np.testing.assert_array_equal(pixels(dicom(RAMP, RescaleIntercept="-1024")), pixels(dicom(RAMP)))


def test_a_slope_without_an_intercept_scales() -> None:
    found = pixels(dicom(RAMP, RescaleSlope="2", WindowCenter="2000", WindowWidth="801"))
    np.testing.assert_allclose(found, np.clip((RAMP * 2.0 - 1999.5) / 800 + 0.5, 0, 1) * 255, atol=0.51)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("centre, width", [(1000, 401), (2048.5, 1.5), (100, 1), (-50, 300)])
def test_windows_are_those_of_pydicom(function: str, centre: float, width: float) -> None:
    """pydicom's own look-up, an independent implementation of PS3.3 C.11.2; with a rescale before it."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    tags = {"RescaleSlope": "1", "RescaleIntercept": "-24", "VOILUTFunction": function}
    content = dicom(RAMP, WindowCenter=str(centre), WindowWidth=str(width), **tags)
    dataset = pydicom.dcmread(io.BytesIO(content))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        theirs = apply_voi_lut(apply_modality_lut(RAMP, dataset), dataset)
    np.testing.assert_allclose(pixels(content), (theirs + 24) / 4095 * 255, atol=0.51)


def test_a_narrow_sigmoid_does_not_overflow() -> None:
    found = pixels(dicom(RAMP, WindowCenter="1000", WindowWidth="0.001", VOILUTFunction="SIGMOID"))
    np.testing.assert_array_equal(found, np.where(RAMP > 1000, 255, 0))


def test_a_window_over_a_negative_slope_keeps_its_direction() -> None:
    """Values are the negatives of the stored ones, and larger values are brighter."""
    found = pixels(dicom(RAMP, RescaleSlope="-1", RescaleIntercept="0", WindowCenter="-1000", WindowWidth="401"))
    shown = np.clip((-RAMP.astype(float) + 1000.5) / 400 + 0.5, 0, 1)
    np.testing.assert_allclose(found, shown * 255, atol=0.51)


def test_a_window_of_enhanced_objects_is_in_the_functional_groups() -> None:
    window = {"WindowCenter": "-600", "WindowWidth": "1500"}
    rescale = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "RescaleType": "HU"}
    wanted = pixels(dicom(RAMP, **window, **rescale))
    both = group("FrameVOILUTSequence", **window)
    both[0].PixelValueTransformationSequence = group("X", **rescale)[0].X
    for place in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        np.testing.assert_array_equal(pixels(dicom(RAMP, NumberOfFrames=1, **{place: both})), wanted)
    apart = {
        "SharedFunctionalGroupsSequence": group("PixelValueTransformationSequence", **rescale),
        "PerFrameFunctionalGroupsSequence": group("FrameVOILUTSequence", **window),
    }
    np.testing.assert_array_equal(pixels(dicom(RAMP, NumberOfFrames=1, **apart)), wanted)
    np.testing.assert_array_equal(pixels(dicom(RAMP, WindowCenter=1, WindowWidth=9, **apart)), wanted)


def test_a_sigmoid_of_an_enhanced_object_is_its_function() -> None:
    window = {"WindowCenter": "2000", "WindowWidth": "900", "VOILUTFunction": "SIGMOID"}
    found = pixels(dicom(RAMP, SharedFunctionalGroupsSequence=group("FrameVOILUTSequence", **window)))
    np.testing.assert_allclose(found, 255 / (1 + np.exp(-4 * (RAMP - 2000.0) / 900)), atol=0.51)


def test_a_modality_lut_comes_before_the_rescale_and_the_window() -> None:
    entries = (4095 - np.arange(4096)).astype("<u2")
    tags = {"RescaleSlope": "3", "RescaleIntercept": "7", "WindowCenter": "1000", "WindowWidth": "401"}
    found = pixels(dicom(RAMP, ModalityLUTSequence=table(entries, bits=12), **tags))
    np.testing.assert_allclose(found, np.clip((4095.0 - RAMP - 999.5) / 400 + 0.5, 0, 1) * 255, atol=0.51)


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_of_eight_bits_may_have_many_entries(packed: bool) -> None:
    """4096 entries of 8 bits, each in a word of its own or two in one (note to PS3.3 C.7.6.3.1.5)."""
    entries = (np.arange(4096) // 16).astype("u1" if packed else "<u2")
    found = pixels(dicom(RAMP, VOILUTSequence=table(entries, bits=8)))
    np.testing.assert_allclose(found, RAMP // 16, atol=0.51)


def test_values_outside_a_table_take_its_ends() -> None:
    entries = np.array([100, 200, 300], dtype="<u2")
    found = pixels(dicom(RAMP, VOILUTSequence=table(entries, first=1000, bits=10)))
    wanted = np.where(RAMP <= 1000, 100, np.where(RAMP == 1001, 200, 300)) / 1023 * 255
    np.testing.assert_allclose(found, wanted, atol=0.51)


def test_the_first_table_with_entries_counts() -> None:
    both = [*table(None), *table((np.arange(4096) * 16).astype("<u2"))]
    found = pixels(dicom(RAMP, VOILUTSequence=both, WindowCenter="10", WindowWidth="10"))
    np.testing.assert_allclose(found, RAMP * 16 / 65535 * 255, atol=0.51)


def test_unused_bits_hold_no_image() -> None:
    """Overlays lie in the bits above the stored ones (PS3.5 8.1.1), and these may begin above bit 0."""
    np.testing.assert_array_equal(pixels(dicom(RAMP | 0x5000)), pixels(dicom(RAMP)))
    np.testing.assert_array_equal(pixels(dicom(RAMP << 4, HighBit=15)), pixels(dicom(RAMP)))
    np.testing.assert_array_equal(pixels(dicom((RAMP << 2) | 3, HighBit=13)), pixels(dicom(RAMP)))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_no_part_of_the_range(photometric: str) -> None:
    """PS3.3 C.7.5.1.1.2."""
    values = RAMP // 4 + 1000
    plain = pixels(dicom(values, PhotometricInterpretation=photometric))
    values[2:4] = 4095
    values[5] = 4090
    tags = {"PhotometricInterpretation": photometric, "PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4090}
    found = pixels(dicom(values, **tags))
    inside = np.isin(np.arange(8), (2, 3, 5), invert=True)
    assert (found[~inside] == 0).all()
    np.testing.assert_array_equal(found[inside], plain[inside])
    stretched = pixels(dicom(values, **tags), SPEC.model_copy(update={"high_bit_depth": "min-max"}))
    assert (stretched[inside].min(), stretched[inside].max(), stretched[~inside].max()) == (0, 255, 0)


def test_padding_may_lie_outside_the_stored_bits() -> None:
    values = RAMP.copy()
    values[0] = 63536
    found = pixels(dicom(values, PixelPaddingValue=63536))
    np.testing.assert_array_equal(found[1:], pixels(dicom(RAMP))[1:])
    assert (found[0] == 0).all()


def test_colour_of_another_depth_is_scaled_to_its_own_range() -> None:
    values = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)
    content = dicom(values[..., 0], PhotometricInterpretation="RGB", SamplesPerPixel=3, PixelData=values.tobytes())
    spec = PreprocessSpec(image_size=8, crop="none")
    for tags in ({}, {"PlanarConfiguration": 0}):
        dataset = pydicom.dcmread(io.BytesIO(content))
        for name, value in tags.items():
            setattr(dataset, name, value)
        stream = io.BytesIO()
        dataset.save_as(stream)
        np.testing.assert_allclose(load_pixels(stream.getvalue(), spec), values / 4095 * 255, atol=1)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("JPGExtended", "pylibjpeg-libjpeg"),
        ("JPEG-lossy", "pylibjpeg-libjpeg"),
        ("SC_rgb_jpeg_gdcm", "pylibjpeg-libjpeg"),
        ("MR_small_jpeg_ls_lossless", "pyjpegls"),
    ],
)
def test_a_missing_decoder_is_a_missing_dependency(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder that is there says of 12-bit JPEG that it cannot; another one can."""
    hide_decoders(monkeypatch)
    folder = Path(str(pydicom.__file__)).parent / "data" / "test_files"
    with pytest.raises(MissingDependencyError, match=package) as caught:
        load_pixels(folder / f"{name}.dcm", SPEC)
    assert "damaged" not in str(caught.value)


def test_a_picture_with_the_ending_of_dicom_is_a_picture(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    np.testing.assert_array_equal(load_pixels(tmp_path / "a.dcm", SPEC)[..., 0], RAMP.astype(np.uint8))


def test_a_dicom_that_is_a_tiff_as_well_is_dicom() -> None:
    """PS3.10 7.1 and C: the preamble may hold the header of another format."""
    content = dicom(RAMP)
    np.testing.assert_array_equal(pixels(b"II*\0" + content[4:]), pixels(content))


def test_a_dicom_without_its_preamble_is_read(tmp_path: Path) -> None:
    content = dicom(RAMP)
    for bare in (content[132:], content[content.index(b"\x08\0\x16\0UI") :]):
        (tmp_path / "IM0001").write_bytes(bare)
        np.testing.assert_array_equal(load_pixels(tmp_path / "IM0001", SPEC)[..., 0], pixels(content))


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(np.zeros((2000, 2000), dtype=np.uint16), syntax="1.2.840.10008.1.2.1.99"))
    with pytest.raises(UnreadableImageError, match="deflated"):
        load_pixels(tmp_path / "a.dcm", SPEC)


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(RAMP))
    monkeypatch.setattr("ttl_deploy.inputs.dicom.importlib.util.find_spec", lambda _: None)
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
