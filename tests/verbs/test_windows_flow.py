"""Studies longer than the network's input: trained on windows, and everywhere after one answer for each study."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run
from ttl_deploy.data.synthetic_ct import CLASSES, draw_study
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.inputs.image import normalise
from ttl_deploy.inputs.volume import array_pixels
from ttl_deploy.parity.verify import verify
from ttl_deploy.prediction.predict import predict
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.request_error import RequestError
from ttl_deploy.serve.triton import write_repository
from ttl_deploy.spec import Data, Model, PreprocessSpec, Protocol, Stream, VolumeSpec
from ttl_deploy.training.run import open_run, read_predictions
from ttl_deploy.training.train import resume, train
from ttl_deploy.verbs.locate import locate

SIZE, STRIDE = (8, 32, 32), 6
DEPTHS = (16, 19, 27, 8, 5, 22)
STUDIES = 24


def starts(slices: int) -> list[int]:
    """By hand: 0, 6, 12, … and the one that ends with the study."""
    return [*range(0, slices - SIZE[0], STRIDE), slices - SIZE[0]]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    rows = ["path,label,patient_id"]
    for number in range(STUDIES):
        depth = DEPTHS[number // 2 % len(DEPTHS)]
        values = draw_study(np.random.default_rng(number), bool(number % 2), (max(depth, 16), 40, 40))
        np.save(folder / f"s{number}.npy", values[:depth])
        rows.append(f"s{number}.npy,{CLASSES[number % 2]},p{number}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def windowed(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    data = Data(
        path=studies / "labels.csv",
        classes=CLASSES,
        hu_window="-100,500",
        slice_stride=STRIDE,
        split="40/30/30",
        cache=folder / "cache",
    )
    model = Model(backbone="resnext3d50", method="ttl", cut="stem", weights="random", image_size=SIZE, channels=1)
    protocol = Protocol(epochs=2, batch_size=8, learning_rate=1e-2, device="cpu", precision="fp32")
    return train(data, model, protocol, folder / "run").folder


@pytest.fixture(scope="module")
def artifact(windowed: Path) -> Path:
    return export_run(windowed, out=windowed / "onnx", cache=windowed.parent / "cache").folder


def by_hand(artifact: Path, study: Path) -> NDArray[np.float64]:
    """Logits of each window, of pixels that know nothing of windows: each is cut from the study before it is read."""
    kept = json.loads((artifact / "manifest.json").read_text())
    input_spec = open_run(artifact.parent).config.preprocess.input
    spec = PreprocessSpec.of(input_spec, volume=VolumeSpec(window=tuple(kept["preprocess"]["volume"]["window"])))
    values = np.load(study)
    if len(values) < SIZE[0]:
        before = (SIZE[0] - len(values)) // 2
        after = SIZE[0] - len(values) - before
        values = np.pad(values, ((before, after), (0, 0), (0, 0)), constant_values=-1000)
    pixels = np.stack([array_pixels(values[start : start + SIZE[0]], spec, "x") for start in starts(len(values))])
    session = onnxruntime.InferenceSession(str(artifact / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: normalise(pixels, spec)})
    return np.asarray(found, dtype=np.float64)


def of_study(windows: NDArray[np.float64]) -> float:
    """The largest of the windows' probabilities of the second class."""
    return float((1 / (1 + np.exp(windows[:, 0] - windows[:, 1]))).max())


def test_the_run_says_one_thing_of_each_study_the_maximum_over_its_windows(
    windowed: Path, artifact: Path, studies: Path
) -> None:
    said = read_predictions(open_run(windowed))
    sides = table(windowed / "split.csv")
    assert sorted(said.ids) == sorted(row["id"] for row in sides if row["split"] != "train")
    assert len(sides) == STUDIES
    for name, logits in zip(said.ids, said.logits.astype(np.float64), strict=True):
        windows = by_hand(artifact, studies / name)
        speaks = windows[(windows[:, 1] - windows[:, 0]).argmax()]
        assert logits == pytest.approx(speaks, abs=1e-4)
    metrics = json.loads((windowed / "metrics.json").read_text())
    assert sum(metrics["images"].values()) == STUDIES


def test_prediction_gives_a_study_the_maximum_over_its_windows(
    windowed: Path, artifact: Path, studies: Path, tmp_path: Path
) -> None:
    out = tmp_path / "said.csv"
    assert run(["predict", str(artifact), str(studies / "labels.csv"), "--out", str(out), "--batch-size", "3"]) == 0
    rows = table(out)
    assert len(rows) == STUDIES
    several = 0
    for row in rows:
        windows = by_hand(artifact, Path(row["image"]))
        several += len(windows) > 1 and np.ptp(windows[:, 1] - windows[:, 0]) > 1e-3
        assert float(row["embolism"]) == pytest.approx(of_study(windows), abs=1e-5)
        assert row["label"] == CLASSES[int(of_study(windows) > 0.5)]
    assert several > STUDIES // 2, "or a mean, or the first window, would pass too"


def test_the_artifact_is_held_against_the_run_by_study(windowed: Path, artifact: Path, studies: Path) -> None:
    cache = windowed.parent / "cache"
    tested = sum(row["split"] == "test" for row in table(windowed / "split.csv"))
    own = verify(artifact, cache=cache)
    assert own.comparison.images == tested
    assert own.comparison.max_difference is not None
    assert own.comparison.max_difference < 1e-4
    other = windowed.parent / "ov"
    export_run(windowed, format="openvino", out=other, cache=cache)
    both = verify(other, against=artifact, data=studies / "labels.csv", cache=cache)
    assert both.comparison.max_difference is not None
    assert both.comparison.max_difference < 1e-4


def test_calibration_looks_at_a_window_of_each_study_and_parity_at_studies(windowed: Path, tmp_path: Path) -> None:
    made = export_run(windowed, precision="int8", out=tmp_path / "int8", cache=windowed.parent / "cache")
    tested = sum(row["split"] == "test" for row in table(windowed / "split.csv"))
    assert made.manifest.parity is not None
    assert made.manifest.parity.images == tested


def test_where_two_part_is_looked_for_by_study(windowed: Path, artifact: Path) -> None:
    found = locate(artifact, cache=windowed.parent / "cache")
    assert found.kind == "nowhere", found.sentence
    assert len(found.steps) >= 3


def test_a_graph_that_normalises_itself_and_a_server_say_the_same(
    windowed: Path, artifact: Path, studies: Path, tmp_path: Path
) -> None:
    whole = export_run(windowed, out=tmp_path / "whole", cache=windowed.parent / "cache", embed_preprocessing=True)
    names = [studies / f"s{n}.npy" for n in (0, 4, 8)]
    wanted = [of_study(by_hand(artifact, name)) for name in names]
    said = list(predict(whole.folder, [str(name) for name in names]))
    assert [one.probabilities["embolism"] for one in said] == pytest.approx(wanted, abs=1e-5)
    with ServedModel(artifact, name="ct") as model:
        answer = model.of_images([name.read_bytes() for name in names])
        assert answer.probabilities[:, 1].tolist() == pytest.approx(wanted, abs=1e-5)
        with pytest.raises(RequestError, match="studies are read in windows here; send the content of their files"):
            model.of_tensor(np.zeros((1, *model.input_shape), np.float32))
        empty = io.BytesIO()
        np.save(empty, np.zeros((3, 0, 3), np.int16))
        with pytest.raises(RequestError, match="is no volume"):
            model.of_images([empty.getvalue()])


def test_what_windows_do_not_go_with_is_refused(
    windowed: Path, artifact: Path, studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = windowed.parent / "cache"
    with pytest.raises(BadInputError, match="over which Triton takes no maximum"):
        write_repository(open_artifact(artifact), tmp_path / "repository")
    assert run(["export", str(windowed), "--out", str(tmp_path / "a"), "--triton", str(tmp_path / "repository")]) == 2
    assert "over which Triton takes no maximum; leave --triton out" in capsys.readouterr().err
    with pytest.raises(BadInputError, match="--int8-auto: judges windows by themselves"):
        export_run(windowed, precision="int8", int8_auto=True, out=tmp_path / "a", cache=cache)
    with pytest.raises(BadInputError, match="not predicted over a cluster; pass --engine local"):
        list(predict(artifact, [str(studies / "s0.npy")], stream=Stream(engine="ray")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--slice-stride", "9"], "windows of 8 slices, one every 9, leave slices out"),
        (["--slice-stride", "0"], "greater than or equal to 1"),
        (["--slice-stride", "4", "--backbone", "resnet18"], "--slice-stride: backbone resnet18 reads images"),
        (["--slice-stride", "4", "--task", "ordinal"], "task ordinal has no maximum over the windows of a study"),
        (["--slice-stride", "4", "--classes", "a,b,c"], "of 3 exclusive classes there is no maximum over the windows"),
        (["--slices-column", "pe"], "--slices-column: names slices of windows, and a study is one input"),
        (["--slices-column", "pe", "--slice-stride", "4", "--spacing", "2,1,1"], "--slices-column: counts the slices"),
        (["--slice-stride", "4", "--method", "lwft", "--cache-features", "1"], "--cache-features: the features of"),
    ],
)
def test_windows_without_a_maximum_are_refused_before_studies_are_read(
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
    size = [] if "resnet18" in options else ["--image-size", "8x32x32"]
    asked = ["train", str(studies / "labels.csv"), "--backbone", "resnext3d50", "--cut", "block:1", *size]
    assert run([*asked, "--weights", "random", "--out", str(tmp_path / "x"), *options]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_a_third_class_is_refused_before_studies_are_decoded(studies: Path, tmp_path: Path) -> None:
    rows = (studies / "labels.csv").read_text().replace("s0.npy,clear", "s0.npy,other")
    three = tmp_path / "three.csv"
    three.write_text(rows.replace("\ns", f"\n{studies}/s"))
    data = Data(path=three, slice_stride=4, cache=tmp_path / "cache")
    model = Model(backbone="resnext3d50", method="ttl", cut="stem", weights="random", image_size=SIZE, channels=1)
    with pytest.raises(BadInputError, match=r"of 3 exclusive classes .*; pass --task multilabel, or leave"):
        train(data, model, Protocol(epochs=1, device="cpu"), tmp_path / "run")
    assert not (tmp_path / "cache").exists()


def test_a_run_on_windows_is_repeated_from_its_own_configuration(windowed: Path, tmp_path: Path) -> None:
    config = str(windowed / "config.yaml")
    assert "slice_stride: 6" in (windowed / "config.yaml").read_text()
    assert run(["train", "--config", config, "--epochs", "1", "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "split.csv").read_bytes() == (windowed / "split.csv").read_bytes()
    told = (tmp_path / "again" / "config.yaml").read_text()
    assert told.replace("epochs: 1\n", "epochs: 2\n") == (windowed / "config.yaml").read_text()


def test_named_slices_change_what_training_is_told_and_not_what_studies_are(
    windowed: Path, studies: Path, tmp_path: Path
) -> None:
    """No window of a positive study has four: the first step learns of negatives only, and metrics of both."""
    rows = table(studies / "labels.csv")
    lines = [f"{studies / row['path']},{row['label']},{'1-3' if row['label'] == CLASSES[1] else ''}" for row in rows]
    (tmp_path / "named.csv").write_text("\n".join(["path,label,pe", *lines]) + "\n")
    data = Data(
        path=tmp_path / "named.csv",
        classes=CLASSES,
        hu_window="-100,500",
        slice_stride=STRIDE,
        slices_column="pe",
        split="40/30/30",
        cache=windowed.parent / "cache",
    )
    model = Model(backbone="resnext3d50", method="ttl", cut="stem", weights="random", image_size=SIZE, channels=1)
    protocol = Protocol(epochs=3, batch_size=8, learning_rate=1e-1, device="cpu", precision="fp32")
    named = open_run(train(data, model, protocol, tmp_path / "run").folder)
    assert named.config.reading.slices_column == "pe"
    assert named.history()[-1]["train_loss"] < 0.05, "as there is but one class among the windows"
    said = read_predictions(named)
    assert (said.logits[:, 0] > said.logits[:, 1]).all()
    assert set(said.labels.tolist()) == {0, 1}
    assert len(resume(named.folder, epochs=4, cache=windowed.parent / "cache").history()) == 4
    (tmp_path / "named.csv").write_text((tmp_path / "named.csv").read_text().replace("1-3", "1-4"))
    with pytest.raises(BadInputError, match=r"not the positive slices that .* is trained with; restore the table"):
        resume(named.folder, epochs=5, cache=windowed.parent / "cache")


def test_one_label_has_the_maximum_of_its_probabilities_and_a_point_chosen_on_studies(
    studies: Path, tmp_path: Path
) -> None:
    """As the recipe pe-ct has it: one output, a sigmoid."""
    data = Data(
        path=studies / "labels.csv",
        task="multilabel",
        classes=CLASSES[1:],
        ignore_other_labels=True,
        hu_window="-100,500",
        slice_stride=STRIDE,
        split="40/30/30",
        cache=tmp_path / "cache",
    )
    model = Model(backbone="resnext3d50", method="ttl", cut="stem", weights="random", image_size=SIZE, channels=1)
    protocol = Protocol(epochs=1, batch_size=8, device="cpu", precision="fp32", operating_point="youden")
    one = train(data, model, protocol, tmp_path / "run")
    found = one.metrics()["operating_point"]
    validated = sum(row["split"] == "val" for row in table(one.folder / "split.csv"))
    assert sum(found["val"][name]["images"] for name in ("sensitivity", "specificity")) == validated
    made = export_run(one.folder, out=tmp_path / "run" / "onnx", cache=tmp_path / "cache", activation="sigmoid").folder
    names = [studies / f"s{n}.npy" for n in range(6)]
    for name, said in zip(names, predict(made, [str(name) for name in names]), strict=True):
        # The graph ends in its sigmoid.
        highest = float(by_hand(made, name).max())
        assert said.probabilities["embolism"] == pytest.approx(highest, abs=1e-6)
        assert said.label == ("embolism" if highest >= found["point"]["threshold"] else "")
