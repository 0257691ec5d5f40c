"""`serve` of a U-Net: maps and masks as the session says them, and the very files of `predict --masks`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from outlined import train_masks, write_pairs
from PIL import Image

from ttl_deploy import runtime
from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run as call
from ttl_deploy.inputs.image import image_size, load_pixels, normalise
from ttl_deploy.prediction.predict import predict
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.server import Server
from ttl_deploy.serve.triton import write_repository
from ttl_deploy.spec import Placement, Stream

INFER = "/v2/models/lung/infer"
MAPS = [-1, 1, 32, 32]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def unet(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = train_masks(pairs, tmp_path_factory.mktemp("masks") / "run")
    place = run.parent / "artifact"
    assert call(["export", str(run), "--format", "onnx", "--max-dice-drop", "0.2", "--out", str(place)]) == 0
    return place


@pytest.fixture(scope="module")
def scans(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Wide, tall, and on its side in a TIFF."""
    folder = tmp_path_factory.mktemp("scans")
    wide = Image.open(pairs / "images/3.png")
    wide.save(folder / "wide.png")
    wide.transpose(Image.Transpose.ROTATE_90).save(folder / "tall.png")
    exif = Image.Exif()
    exif[0x112] = 6
    wide.save(folder / "side.tif", exif=exif)
    return [folder / name for name in ("wide.png", "tall.png", "side.tif")]


@pytest.fixture(scope="module")
def written(unet: Path, scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, float]]:
    """The files of `predict --masks`, and which share it says."""
    stream = Stream(masks=tmp_path_factory.mktemp("written"))
    found = predict(unet, [str(scan) for scan in scans], stream=stream)
    return [(Path(one.label).read_bytes(), one.probabilities["lung"]) for one in found]


@pytest.fixture(scope="module")
def tensor(unet: Path, scans: list[Path]) -> NDArray[np.float32]:
    spec = open_artifact(unet).manifest.preprocess
    return normalise(np.stack([load_pixels(scan, spec) for scan in scans]), spec)


@pytest.fixture(scope="module")
def logits(unet: Path, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    with runtime.load(open_artifact(unet), Placement(threads=1)) as session:
        return np.asarray(session.run(tensor))


@pytest.fixture(scope="module")
def client(unet: Path) -> Iterator[httpx.Client]:
    with (
        ServedModel(unet, name="lung", max_batch=4, placement=Placement(threads=1)) as model,
        Server(model, port=0) as running,
        httpx.Client(base_url=running.url, timeout=120, trust_env=False) as opened,
    ):
        yield opened


def images(scans: list[Path], **more: Any) -> dict[str, Any]:
    data = [base64.b64encode(scan.read_bytes()).decode() for scan in scans]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(scans)], "data": data}], **more}


def of_tensor(batch: NDArray[np.float32], **more: Any) -> dict[str, Any]:
    given = {"name": "images", "datatype": "FP32", "shape": list(batch.shape), "data": batch.ravel().tolist()}
    return {"inputs": [given], **more}


def read(answer: httpx.Response) -> dict[str, Any]:
    """Outputs by name: arrays, or lists of what BYTES hold."""
    assert answer.status_code == 200, answer.text
    length = answer.headers.get("Inference-Header-Content-Length")
    head = answer.content if length is None else answer.content[: int(length)]
    tail = io.BytesIO(b"" if length is None else answer.content[int(length) :])
    return {output["name"]: _value(output, tail) for output in json.loads(head)["outputs"]}


def _value(output: dict[str, Any], tail: io.BytesIO) -> Any:
    kind = {"FP32": "<f4", "UINT8": "u1", "BYTES": ""}[output["datatype"]]
    if "data" in output:
        return np.reshape(np.array(output["data"], kind), output["shape"]) if kind else output["data"]
    content = tail.read(output["parameters"]["binary_data_size"])
    if kind:
        return np.frombuffer(content, kind).reshape(output["shape"])
    found, stream = [], io.BytesIO(content)
    while size := stream.read(4):
        found.append(stream.read(int.from_bytes(size, "little")))
    return found


def test_metadata_tells_the_maps(client: httpx.Client) -> None:
    outputs = {one["name"]: (one["datatype"], one["shape"]) for one in client.get("/v2/models/lung").json()["outputs"]}
    assert outputs == {
        "logits": ("FP32", MAPS),
        "probabilities": ("FP32", MAPS),
        "mask": ("UINT8", MAPS),
        "mask_png": ("BYTES", [-1]),
        "label": ("BYTES", [-1]),
        "classes": ("BYTES", [1]),
    }
    config = client.get("/v2/models/lung/config").json()
    told = {one["name"]: (one["data_type"], one["dims"]) for one in config["output"]}
    assert told["mask"] == ("TYPE_UINT8", MAPS) and told["mask_png"] == ("TYPE_STRING", [-1])


@pytest.mark.parametrize("binary", [False, True])
def test_a_tensor_gets_what_the_session_says(
    client: httpx.Client, tensor: NDArray[np.float32], logits: NDArray[np.float32], binary: bool
) -> None:
    said = read(client.post(INFER, json=of_tensor(tensor, parameters={"binary_data_output": binary})))
    assert list(said) == ["logits", "probabilities", "mask", "label", "classes"]
    np.testing.assert_allclose(said["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(said["probabilities"], 1 / (1 + np.exp(-logits.astype(np.float64))), atol=1e-5)
    sure = np.abs(logits) > 1e-4
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(said["mask"][sure], (logits > 0)[sure])
    labels = [one.decode() if isinstance(one, bytes) else one for one in said["label"]]
    assert labels == [f"{share:.1%} inside" for share in said["mask"].reshape(3, -1).mean(axis=1)]


@pytest.mark.parametrize("binary", [False, True])
def test_encoded_images_get_the_files_of_predict(
    client: httpx.Client, scans: list[Path], written: list[tuple[bytes, float]], binary: bool
) -> None:
    said = read(client.post(INFER, json=images(scans, parameters={"binary_data_output": binary})))
    assert list(said) == ["logits", "probabilities", "mask", "mask_png", "label", "classes"]
    found = said["mask_png"] if binary else [base64.b64decode(one, validate=True) for one in said["mask_png"]]
    assert found == [content for content, _share in written]
    assert [Image.open(io.BytesIO(one)).size for one in found] == [(48, 40), (40, 48), (40, 48)]
    assert 0.01 < said["mask"].mean() < 0.5


def test_only_what_is_asked_for_is_sent(client: httpx.Client, scans: list[Path]) -> None:
    asked = [{"name": "mask", "parameters": {"binary_data": True}}, {"name": "label"}]
    assert list(read(client.post(INFER, json=images(scans, outputs=asked)))) == ["mask", "label"]


@pytest.mark.parametrize("number", [0, 2])
def test_predict_gives_the_file_and_the_share(
    client: httpx.Client, scans: list[Path], written: list[tuple[bytes, float]], number: int
) -> None:
    answer = client.post("/predict", content=scans[number].read_bytes()).json()
    assert set(answer) == {"model", "label", "inside", "mask"}
    assert base64.b64decode(answer["mask"], validate=True) == written[number][0]
    assert answer["inside"] == {"lung": pytest.approx(written[number][1])}
    assert answer["label"].endswith("% inside")


def test_what_cannot_be_answered_is_one_line(
    client: httpx.Client, scans: list[Path], tensor: NDArray[np.float32]
) -> None:
    for body, what in (
        (of_tensor(tensor, outputs=[{"name": "mask_png"}]), "give the input image, or ask for mask"),
        (of_tensor(tensor, outputs=[{"name": "masks"}]), "valid: logits, probabilities, mask, label, classes"),
        (of_tensor(tensor[..., :31]), "expected [N, 1, 32, 32]"),
        (images([*scans, *scans]), "give 1 to 4"),
    ):
        answer = client.post(INFER, json=body)
        assert answer.status_code == 400 and what in answer.json()["error"]
    answer = client.post("/predict", content=b"GIF89a")
    assert answer.status_code == 400 and "\n" not in answer.json()["error"]


def test_a_triton_model_of_masks_gives_the_map_and_no_classes(unet: Path, tmp_path: Path) -> None:
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    folder = write_repository(open_artifact(unet), tmp_path / "models", name="lung")
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    (output,) = config.output
    assert (output.name, list(output.dims), output.label_filename) == ("logits", [1, 32, 32], "")
    assert sorted(path.name for path in folder.iterdir()) == ["1", "config.pbtxt", "manifest.json"]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_an_image_has_the_size_in_which_it_is_shown(ending: str, orientation: int, tmp_path: Path) -> None:
    path, exif = tmp_path / f"image.{ending}", Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(path, exif=exif)
    assert image_size(path) == image_size(path.read_bytes()) == ((30, 20) if orientation < 5 else (20, 30))
