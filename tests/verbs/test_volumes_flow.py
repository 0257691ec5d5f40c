"""A network of volumes from a set of studies to one score per study of a scanner's folders."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.studies import write_series
from ttl_deploy.cli.main import run
from ttl_deploy.data.synthetic_ct import CLASSES, draw_study, write_synthetic_ct
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.parity.verify import verify
from ttl_deploy.prediction.predict import predict
from ttl_deploy.runtime import trt_rtx
from ttl_deploy.spec import Data, Model, Protocol
from ttl_deploy.training.train import train

SIZE = (16, 32, 32)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_ct(tmp_path_factory.mktemp("ct") / "set", studies=32, size=SIZE)


@pytest.fixture(scope="module")
def trained_on_ct(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    data = Data(path=studies / "labels.csv", classes=CLASSES, hu_window="-100,500", cache=folder / "cache")
    model = Model(backbone="resnext3d50", method="ttl", cut="stem", weights="random", image_size=SIZE, channels=1)
    protocol = Protocol(epochs=2, batch_size=8, learning_rate=1e-3, device="cpu", precision="fp32")
    return train(data, model, protocol, folder / "run").folder


def test_volumes_that_move_in_space_train_the_same_in_a_process_beside(trained_on_ct: Path, tmp_path: Path) -> None:
    again = ["train", "--config", str(trained_on_ct / "config.yaml"), "--epochs", "1"]
    weights = set()
    for out, asked in {
        "still": ["--augment", ""],
        "here": ["--augment", "rotation=10,tilt=5,slide=0.2,dflip=0.5"],
        "beside": ["--augment", "rotation=10,tilt=5,slide=0.2,dflip=0.5", "--workers", "1"],
    }.items():
        assert run([*again, *asked, "--out", str(tmp_path / out)]) == 0
        weights.add((tmp_path / out / "best.safetensors").read_bytes())
    assert len(weights) == 2


@pytest.mark.parametrize(
    ("format", "precision"), [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp16"), ("pt2", "fp32")]
)
def test_exports_of_volumes_pass_parity(
    trained_on_ct: Path, format: str, precision: str, tmp_path: Path, studies: Path
) -> None:
    cache = trained_on_ct.parent / "cache"
    artifact = export_run(trained_on_ct, format=format, precision=precision, out=tmp_path / "a", cache=cache)
    assert artifact.manifest.model.input.size == SIZE
    report = verify(artifact.folder, against=trained_on_ct, data=studies / "labels.csv", cache=cache)
    assert report.record.verdict == "pass", report.record.reason


def test_a_folder_of_series_gives_one_score_per_study(trained_on_ct: Path, tmp_path: Path) -> None:
    """And the same score as the same study in an array and in the graph that normalises itself."""
    cache = trained_on_ct.parent / "cache"
    plain = export_run(trained_on_ct, out=tmp_path / "plain", cache=cache).folder
    whole = export_run(trained_on_ct, out=tmp_path / "whole", cache=cache, embed_preprocessing=True).folder
    scans = [draw_study(np.random.default_rng(n), bool(n % 2), SIZE) for n in range(3)]
    for number, scan in enumerate(scans):
        write_series(tmp_path / "scans" / f"p{number}" / "series", scan)
        np.save(tmp_path / f"p{number}.npy", scan)
    assert run(["predict", str(plain), str(tmp_path / "scans"), "--out", str(tmp_path / "said.csv")]) == 0
    with (tmp_path / "said.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["image"] for row in rows] == [str(tmp_path / "scans" / f"p{n}" / "series") for n in range(3)]
    for artifact in (plain, whole):
        arrays = list(predict(artifact, [str(tmp_path / f"p{n}.npy") for n in range(3)]))
        for row, said in zip(rows, arrays, strict=True):
            assert float(row["embolism"]) == pytest.approx(said.probabilities["embolism"], abs=1e-5)


def test_a_run_is_repeated_from_its_own_configuration(trained_on_ct: Path, tmp_path: Path) -> None:
    config = str(trained_on_ct / "config.yaml")
    assert run(["train", "--config", config, "--epochs", "1", "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "split.csv").read_bytes() == (trained_on_ct / "split.csv").read_bytes()
    told = (tmp_path / "again" / "config.yaml").read_text()
    assert told.replace("epochs: 1\n", "epochs: 2\n") == (trained_on_ct / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--image-size", "16x32"], "the size of one volume is 3 numbers, not 2"),
        (["--high-bit-depth", "min-max"], "--high-bit-depth: backbone resnext3d50 reads volumes"),
        (["--task", "segmentation"], "reads volumes, and task segmentation is of images"),
        (["--hu-window", "5,5"], "the window 5 to 5 is empty"),
        (["--precision", "bf16", "--device", "cpu"], "3-D convolutions in bfloat16 are not to be trusted on a CPU"),
        (["--backbone", "resnet18", "--spacing", "1,1,1"], "--spacing: backbone resnet18 reads images"),
        (["--backbone", "resnet18", "--hu-window", "0,80"], "--hu-window: backbone resnet18 reads images"),
    ],
)
def test_what_is_of_the_other_kind_is_refused_before_images_are_read(
    options: list[str],
    said: str,
    studies: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the studies were read")

    monkeypatch.setattr("ttl_deploy.data.manifest.read_dataset", fail)
    asked = ["train", str(studies / "labels.csv"), "--backbone", "resnext3d50", "--cut", "block:1"]
    assert run([*asked, "--weights", "random", "--out", str(tmp_path / "x"), *options]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_images_given_to_a_model_of_volumes_are_named(trained_on_ct: Path, tmp_path: Path) -> None:
    artifact = export_run(trained_on_ct, out=tmp_path / "a", cache=trained_on_ct.parent / "cache").folder
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    with pytest.raises(BadInputError, match=r"x\.png: is no volume; give NIfTI, a folder of DICOM slices, or \.npy"):
        list(predict(artifact, [str(tmp_path / "x.png")]))


@pytest.mark.slow
@pytest.mark.skipif(trt_rtx.missing() is not None, reason=str(trt_rtx.missing()))
def test_an_engine_of_volumes_is_built_for_a_card(trained_on_ct: Path, tmp_path: Path) -> None:
    out, cache = tmp_path / "a", trained_on_ct.parent / "cache"
    artifact = export_run(trained_on_ct, format="trt-rtx", precision="fp16", targets="sm86", out=out, cache=cache)
    assert (artifact.folder / "model-sm86.engine").stat().st_size > 1000


@pytest.mark.slow
def test_a_study_of_400_slices_is_predicted_in_less_than_two_gibibytes(trained_on_ct: Path, tmp_path: Path) -> None:
    artifact = export_run(trained_on_ct, out=tmp_path / "a", cache=trained_on_ct.parent / "cache").folder
    write_series(tmp_path / "scan", np.zeros((400, 512, 512), np.int16))
    program = (
        "import sys\n"
        "from ttl_deploy.latency.measure import peak_rss_mib\n"
        "from ttl_deploy.prediction.predict import predict\n"
        "assert len(list(predict(sys.argv[1], [sys.argv[2]]))) == 1\n"
        "print(peak_rss_mib())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(artifact), str(tmp_path / "scan")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(said.stdout.split()[-1]) < 2 * 2**10
