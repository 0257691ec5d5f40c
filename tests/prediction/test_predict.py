"""Prediction: what images are found, that torch stays out, and what it costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ttl_deploy.errors import BadInputError, UnreadableImageError
from ttl_deploy.prediction.predict import predict
from ttl_deploy.prediction.sources import ImageSources
from ttl_deploy.spec import Stream


def test_files_folders_and_patterns_are_found_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "sub/c.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = ImageSources([str(tmp_path / "a.png"), str(tmp_path), str(tmp_path / "*.png")])
    assert [Path(image.path).name for image in found] == ["a.png", "b.PNG", "c.jpg"]
    with pytest.raises(BadInputError, match="no image matches"):
        list(ImageSources([str(tmp_path / "*.tif")]))
    with pytest.raises(BadInputError, match="no such image"):
        list(ImageSources([str(tmp_path / "d.png")]))


def test_batches_do_not_change_the_answers(trained: Path, synthetic: Path) -> None:
    images = [str(synthetic / "lesion")]
    one, many = (list(predict(trained / "onnx-fp32", images, stream=Stream(batch_size=size))) for size in (1, 7))
    assert [p.image for p in one] == [p.image for p in many]
    for single, batched in zip(one, many, strict=True):
        assert single.probabilities == pytest.approx(batched.probabilities, abs=1e-5)


def test_unreadable_images_stop_or_are_left_out(trained: Path, synthetic: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    good = next((synthetic / "lesion").glob("*.png"))
    with pytest.raises(UnreadableImageError, match=r"bad\.png"):
        list(predict(trained / "onnx-fp32", [str(bad), str(good)]))
    left = list(predict(trained / "onnx-fp32", [str(bad), str(good)], stream=Stream(skip_unreadable=True)))
    assert [p.image for p in left] == [str(good)]


def test_an_image_of_any_mode_gets_an_answer(trained: Path, synthetic: Path, tmp_path: Path) -> None:
    """A grey scan saved as RGB or RGBA is the same scan."""
    grey = Image.open(next((synthetic / "lesion").glob("*.png")))
    answers = []
    for mode in ("L", "RGB", "RGBA"):
        grey.convert(mode).save(tmp_path / f"{mode}.png")
        (answer,) = predict(trained / "onnx-fp32", [str(tmp_path / f"{mode}.png")])
        answers.append(answer.probabilities)
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("command", ["predict", "verify"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_torch_is_never_imported(trained: Path, synthetic: Path, pixel_cache: Path, engine: str, command: str) -> None:
    image = str(next((synthetic / "lesion").glob("*.png")))
    rest = [image] if command == "predict" else ["--cache", str(pixel_cache)]
    code = (
        "import sys, json\nfrom ttl_deploy.cli.main import run\n"
        f"code = run({[command, str(trained / 'onnx-fp32'), *rest, '--runtime', engine, '--json']!r})\n"
        "sys.stderr.write(json.dumps([code, sorted({m.partition('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert status == 0
    assert not {"torch", "torchvision", "lightning_fabric", "timm", "matplotlib"} & set(modules)


def test_bench_itself_never_imports_torch(trained: Path, pixel_cache: Path) -> None:
    timing = [
        "--min-samples",
        "3",
        "--min-seconds",
        "0.01",
        "--rounds",
        "1",
        "--no-roofline",
        "--json",
        "--allow-inconclusive",
        "--cache",
        str(pixel_cache),
    ]
    code = (
        "import sys\nfrom ttl_deploy.cli.main import run\n"
        f"code = run({['bench', str(trained / 'onnx-fp32'), *timing]!r})\n"
        "assert code == 0\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
