"""Masks: how they are read, learnt, measured, exported, held against each other and written; the paper's U-Net."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from outlined import BRIEF, NETWORK, disc, train_masks, write_pairs
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score

from ttl_deploy.cli.main import run as call
from ttl_deploy.complexity import count
from ttl_deploy.cut_search import latency
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.prepared import prepare
from ttl_deploy.data.torch_data import ImageBatches
from ttl_deploy.errors import BadInputError, UnreadableImageError
from ttl_deploy.inputs.image import array_pixels
from ttl_deploy.inputs.mask import load_mask, sized_mask, whole_mask
from ttl_deploy.parity.compare import verdict
from ttl_deploy.parity.masks import compare_masks
from ttl_deploy.spec import AugmentSpec, Bounds, InputSpec, ModelSpec, PreprocessSpec, SplitSpec, TaskSpec
from ttl_deploy.tasks import make_task
from ttl_deploy.training.losses.dice import DiceCrossEntropy
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.measures.overlap import means, overlap_of, packed, unpacked
from ttl_deploy.training.run import Predictions, finished_run, read_predictions
from ttl_deploy.transfer import build

MASKS = TaskSpec(kind="segmentation")
LUNG = make_task(MASKS, ("lung",))
SMALL = PreprocessSpec.of(InputSpec.image(32, 1))


def unet(cut: str | None, size: int = 224, channels: int = 1, backbone: str = "resnet34") -> ModelSpec:
    return ModelSpec(
        backbone=backbone,
        method="ftl" if cut is None else "ttl",
        cut=cut,
        head="unet",
        task=MASKS,
        classes=("lung",),
        input=InputSpec.image(size, channels),
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_masks(pairs, tmp_path_factory.mktemp("masks") / "run")


@pytest.mark.parametrize(
    ("cut", "parameters", "macs"),
    [(None, 24.430, 5.925), ("block:3", 8.955, 4.820), ("block:2", 1.543, 3.019), ("block:1", 0.279, 1.679)],
)
def test_the_papers_four_networks_have_its_macs(cut: str | None, parameters: float, macs: float) -> None:
    counted = count(build(unet(cut)), (1, 224, 224))
    assert (round(counted.parameters / 1e6, 3), round(counted.layer_macs / 1e9, 3)) == (parameters, macs)


def test_the_whole_network_says_what_the_library_s_own_does() -> None:
    ours = build(unet(None, size=64, channels=3)).eval()
    theirs = smp.Unet("resnet34", encoder_weights=None, in_channels=3, classes=1).eval()
    renamed = {
        name.removeprefix("head.") if name.startswith("head.") else f"encoder.{name}": tensor
        for name, tensor in ours.network_state().items()
    }
    missing, unknown = theirs.load_state_dict(renamed, strict=False)
    assert not missing and not unknown
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("size", [32, 37])
@pytest.mark.parametrize("cut", ["stem", "layer1.1", "layer3.0"])
@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "efficientnet_b0"])
def test_every_cut_of_every_backbone_says_a_map_as_large_as_the_image(backbone: str, cut: str, size: int) -> None:
    if backbone != "resnet18":
        cut = "block:2" if cut == "layer3.0" else "block:1"
    model = build(unet(cut, size, backbone=backbone)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 1, size, size)).shape == (2, 1, size, size)


def test_dice_and_jaccard_are_scikit_learns_of_the_pixels() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(5, 1, 8, 9)).astype(np.float32)
    drawn = (generator.random((5, 1, 8, 9)) < 0.4).astype(np.uint8)
    measure = measure_of(LUNG)
    rows = measure.keep(LUNG, logits, drawn)
    found = measure.evaluate(LUNG, np.zeros(5, dtype=np.int64), rows, groups=list("aabbc")).model_dump()
    pairs = [(mask.ravel(), said.ravel() >= 0) for mask, said in zip(drawn, logits, strict=True)]
    dice = [f1_score(mask, said) for mask, said in pairs]
    assert found["dice"] == pytest.approx(np.mean(dice)) and found["dice_std"] == pytest.approx(np.std(dice, ddof=1))
    assert found["jaccard"] == pytest.approx(np.mean([jaccard_score(mask, said) for mask, said in pairs]))
    assert found["least_dice"] == pytest.approx(min(dice))
    low, high = found["dice_interval"]
    assert low <= found["dice"] <= high
    loss = DiceCrossEntropy()(torch.from_numpy(logits), torch.from_numpy(drawn))
    assert measure.loss(rows) == pytest.approx(float(loss), rel=1e-5)


def test_two_empty_masks_agree() -> None:
    measure, none = measure_of(LUNG), np.zeros((1, 1, 4, 4), dtype=np.uint8)
    assert measure.quick(LUNG, np.zeros(1), measure.keep(LUNG, np.full((1, 1, 4, 4), -9.0, np.float32), none)) == {
        "dice": 1.0,
        "jaccard": 1.0,
    }


def test_packed_masks_overlap_as_the_masks_do() -> None:
    one, other = np.full((1, 1, 5, 5), -1.0), np.full((1, 1, 5, 5), -1.0)
    one[..., :2, :], other[..., 1:3, :] = 1, 1
    assert overlap_of(packed(one), packed(other)).tolist() == [0.5]
    assert (unpacked(packed(one), (5, 5)) == (one[:, 0] >= 0)).all()


def test_resamples_draw_whole_patients() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0])
    assert set(means(values, ["a", "a", "b", "b"], 200).round(6).tolist()) == {0.0, 0.5, 1.0}


@pytest.mark.parametrize("size", [(40, 48), (48, 40), (32, 32), (17, 60)])
@pytest.mark.parametrize("crop", ["center", "none"])
def test_a_mask_lies_where_its_image_does(size: tuple[int, int], crop: str) -> None:
    spec = SMALL.model_copy(update={"crop": crop})
    inside = disc(size, (size[0] / 2, size[1] / 2), min(size) / 3)
    shown = array_pixels(inside.astype(np.uint8) * 255, spec, "")[..., 0]
    mask = sized_mask(inside, spec)
    assert ((shown >= 128) != (mask > 0)).mean() < 0.06
    assert (whole_mask(mask, spec, (size[1], size[0])) != inside).mean() < 0.06


def test_augmentation_moves_a_mask_with_its_image(pairs: Path, tmp_path: Path) -> None:
    dataset = read_dataset(pairs / "pairs.csv", task=MASKS, classes=["lung"])
    prepared = prepare(dataset, SMALL, SplitSpec(), cache_folder=tmp_path)
    batches = ImageBatches(
        prepared, prepared.indices("train"), SMALL, AugmentSpec(rotation=40, crop_scale=0.5, flip=0.5)
    )
    images, masks = batches.__getitems__(range(16))
    plain = ImageBatches(prepared, prepared.indices("train"), SMALL).__getitems__(range(16))[1]
    bright = images > float((130 / 255 - SMALL.mean[0]) / SMALL.std[0])
    assert (masks != plain).float().mean() > 0.02
    assert (bright != (masks > 0)).float().mean() < 0.06


def test_the_public_sets_are_read_as_they_lie(tmp_path: Path) -> None:
    left, right = disc((20, 20), (10, 5), 3), disc((20, 20), (10, 15), 3)
    montgomery, shenzhen = tmp_path / "MontgomerySet", tmp_path / "ShenZhen"
    for folder in (montgomery / "CXR_png", montgomery / "ManualMask/leftMask", montgomery / "ManualMask/rightMask"):
        folder.mkdir(parents=True)
    for folder in (shenzhen / "CXR_png", shenzhen / "mask"):
        folder.mkdir(parents=True)
    grey = Image.fromarray(np.full((20, 20), 90, np.uint8))
    grey.save(montgomery / "CXR_png/MCUCXR_0001_0.png")
    Image.fromarray(left).save(montgomery / "ManualMask/leftMask/MCUCXR_0001_0.png")
    Image.fromarray(right).save(montgomery / "ManualMask/rightMask/MCUCXR_0001_0.png")
    for name in ("CHNCXR_0001_0", "CHNCXR_0002_1"):
        grey.save(shenzhen / f"CXR_png/{name}.png")
    Image.fromarray(left.astype(np.uint8) * 255).save(shenzhen / "mask/CHNCXR_0001_0_mask.png")
    dataset = read_dataset(tmp_path, task=MASKS)
    assert [item.id for item in dataset.items] == [
        "MontgomerySet/CXR_png/MCUCXR_0001_0.png",
        "ShenZhen/CXR_png/CHNCXR_0001_0.png",
    ]
    assert dataset.reading.passed_over == {"images without a mask": 1}
    assert dataset.items[0].mask is not None
    spec = PreprocessSpec.of(InputSpec.image(20, 1))
    assert (dataset.items[0].mask.pixels(spec)[..., 0] == (left | right)).all()


@pytest.mark.parametrize(
    ("mask", "what"),
    [
        (np.full((20, 21), 255, np.uint8), "has 21 x 20 pixels, its image image.png has 20 x 20"),
        (np.full((20, 20), 37, np.uint8), "its largest value is 37"),
    ],
)
def test_what_is_no_mask_of_its_image_is_refused(mask: np.ndarray, what: str, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(UnreadableImageError, match=what):
        load_mask([tmp_path / "mask.png"], SMALL, tmp_path / "image.png")


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("image\na.png\n", "has no column label"),
        ("image,mask\na.png,gone.png\n", "masks are missing: gone.png"),
        ("image,mask\na.png,\n", "the mask is blank"),
        ("image,mask\na.png,a.png\na.png,a.png\n", "listed twice"),
        ("image,mask\n", "lists no images"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(table: str, what: str, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text(table)
    with pytest.raises(BadInputError, match=what):
        read_dataset(tmp_path / "pairs.csv", task=MASKS)


def test_a_run_of_masks_keeps_what_it_was_evaluated_by(run: Path) -> None:
    opened = finished_run(run)
    said, test = read_predictions(opened), opened.metrics()["test"]
    assert said.masks is not None and said.masks.shape == (len(said.ids), 32 * 32 // 8)
    assert test["dice"] > 0.6 and test["patients"] == 5
    whole = (run / "masks.npy").read_bytes()
    (run / "masks.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert call(["export", str(run), "--format", "onnx", "--out", str(run.parent / "no")]) == 2
    (run / "masks.npy").write_bytes(whole)


@pytest.mark.parametrize(
    ("format", "precision"), [("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("openvino", "fp32")]
)
def test_exports_of_masks_pass_and_are_written(
    format: str, precision: str, run: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "artifact"
    asked = ["export", str(run), "--format", format, "--precision", precision, "--out", str(place)]
    assert call([*asked, "--max-dice-drop", "0.2"]) == 0
    parity = json.loads((place / "manifest.json").read_text())["parity"]
    assert parity["verdict"] == "pass" and parity["mask_overlap"][0] > (0.97 if precision == "int8" else 0.995)
    image, masks = pairs / "images/3.png", tmp_path / "masks"
    capsys.readouterr()
    assert call(["predict", str(place), str(image), "--masks", str(masks), "--overlays", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)[0]
    written = np.asarray(Image.open(said["label"]))
    assert written.shape == (40, 48) and set(np.unique(written)) <= {0, 255}
    assert said["probabilities"]["lung"] == pytest.approx((written > 0).mean())
    assert Path(said["label"]).with_suffix(".overlay.png").is_file()


def test_a_mask_that_moved_fails() -> None:
    drawn = disc((32, 32), (16, 16), 8)[None, None].astype(np.float32)
    measure, targets = measure_of(LUNG), (drawn > 0).astype(np.uint8).repeat(6, 0)

    def said(shift: int) -> Predictions:
        logits = (np.roll(drawn, shift, axis=3) * 8 - 4).repeat(6, 0)
        ids = tuple(map(str, range(6)))
        rows = measure.keep(LUNG, logits, targets)
        return Predictions(ids, ("test",) * 6, np.zeros(6, np.int64), rows, measure.masks(logits))

    same, moved = (compare_masks(said(0), said(shift), labelled=True, pixels=1024, groups=None) for shift in (0, 3))
    assert verdict(same, Bounds.for_precision("fp32")).result == "pass"
    judged = verdict(moved, Bounds.for_precision("int8"))
    assert judged.result == "fail" and judged.measure == "mask overlap"
    assert moved.changes.dice is not None and moved.changes.dice.difference == pytest.approx(moved.overlap[0] - 1)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["predict", "ARTIFACT", "IMAGE"], "pass --masks FOLDER"),
        (["verify", "ARTIFACT", "--locate"], "leave --locate out"),
        (["export", "RUN", "--format", "trt", "--defer-build"], "pass --format onnx"),
        (["export", "RUN", "--precision", "int8", "--int8-auto"], "leave --int8-auto out"),
        (["train", "TABLE", "--task", "segmentation", "--head", "gap", "--out", "x"], "pass --head unet"),
        (["train", "TABLE", "--head", "unet", "--out", "x"], "pass --head gap"),
        (["train", "TABLE", "--task", "segmentation", "--classes", "a,b", "--cut", "stem", *NETWORK, "--out", "x"],
         "of one structure"),
        (
            ["train", "TABLE", "--task", "segmentation", "--operating-point", "youden", "--cut", "stem", *NETWORK,
             "--out", "x"],
            "--operating-point",
        ),
        (
            ["train", "TABLE", "--task", "segmentation", "--method", "lwft", "--layers", "2", "--cache-features", "1",
             "--weights", "random", "--image-size", "32", "--out", "x"],
            "drop --cache-features",
        ),
    ],
)  # fmt: skip
def test_what_means_nothing_of_masks_is_one_line(
    command: list[str], what: str, run: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = run / "artifact"
    if "ARTIFACT" in command and not artifact.exists():
        assert call(["export", str(run), "--format", "onnx", "--max-dice-drop", "0.2", "--out", str(artifact)]) == 0
    places = {"ARTIFACT": artifact, "RUN": run, "TABLE": pairs / "pairs.csv", "IMAGE": pairs / "images/1.png"}
    given = [str(places.get(word, word)) for word in command]
    given = [str(tmp_path / "x") if word == "x" else word for word in given]
    capsys.readouterr()
    assert call(given) == 2
    error = capsys.readouterr().err
    assert what in error and "unforeseen" not in error


@pytest.mark.usefixtures("measured_here")
def test_a_search_of_masks_selects_by_dice(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every cut is timed, for two seconds otherwise.
    monkeypatch.setattr(latency, "Job", functools.partial(latency.Job, min_seconds=0.1, min_samples=5))
    asked = ["search", str(pairs / "pairs.csv"), "--task", "segmentation", *NETWORK, *BRIEF[:-4], "--device", "cpu"]
    assert call([*asked, "--epochs", "1", "--strategy", "hierarchical", "--out", str(tmp_path / "s")]) == 0
    assert finished_run(tmp_path / "s/winner").metrics()["test"]["dice"] > 0
