"""What an artifact can be held against, on which images, and what that imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from ttl_deploy.artifact import Artifact, open_artifact, write_artifact
from ttl_deploy.cli.main import run as call
from ttl_deploy.data.prepared import read_split
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.parity.images import read_items
from ttl_deploy.parity.verify import verify
from ttl_deploy.spec import Placement
from ttl_deploy.tasks import UNKNOWN, Multiclass, softmax
from ttl_deploy.training.run import finished_run, read_predictions

COMMAND = (
    "from ttl_deploy.cli.main import run; import sys; code = run({arguments!r}); print('torch' in sys.modules, code)"
)


@pytest.fixture
def alone(trained: Path, tmp_path: Path) -> Path:
    """The artifact away from its run."""
    return Path(shutil.copytree(trained / "onnx-fp32", tmp_path / "alone"))


def imports_torch(*arguments: str | Path) -> bool:
    code = COMMAND.format(arguments=[str(argument) for argument in arguments])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, exit_code = done.stdout.split()[-2:]
    assert exit_code == "0", done.stdout + done.stderr
    return loaded == "True"


def test_the_recorded_predictions_are_the_reference(trained: Path, pixel_cache: Path) -> None:
    result = verify(trained / "onnx-fp32", cache=pixel_cache)
    said = read_predictions(finished_run(trained)).side("test")
    assert result.verdict.result == "pass"
    assert result.acceptable
    assert result.notes == ()
    assert len(result.examples) == len(result.worst) == 10
    example = result.examples[0]
    position = said.ids.index(example.id)
    assert example.label == result.prepared.classes[said.labels[position]]
    assert list(example.reference.values()) == pytest.approx(softmax(said.logits[position]))
    assert list(example.candidate.values()) == pytest.approx(softmax(said.logits[position]), abs=1e-4)
    assert example.difference == result.comparison.max_difference
    assert result.record.worst == result.worst
    test = result.prepared.indices("test")
    assert result.comparison.changes.patients == len({result.prepared.patients[i] for i in test})


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_run_as_reference_needs_no_torch(trained: Path, pixel_cache: Path, engine: str) -> None:
    artifact = trained / "onnx-fp32"
    assert not imports_torch("verify", artifact, "--against", trained, "--runtime", engine, "--cache", pixel_cache)


def test_two_artifacts_need_no_torch_and_a_run_on_other_images_does(
    alone: Path, trained: Path, tmp_path: Path, pixel_cache: Path
) -> None:
    others = write_synthetic(tmp_path / "others", images=20, size=32, seed=2)
    images = ["--data", others / "labels.csv", "--cache", pixel_cache, "--allow-inconclusive"]
    other = trained / "onnx-fp32"
    assert not imports_torch("verify", alone, "--against", other, "--runtime", "openvino", "--locate", *images)
    assert imports_torch("verify", alone, "--against", trained, *images)


def test_an_artifact_against_another_on_the_runs_test_split(alone: Path, trained: Path, pixel_cache: Path) -> None:
    result = verify(alone, against=trained / "onnx-fp32", cache=pixel_cache)
    assert result.comparison.max_difference == 0
    assert result.comparison.images == finished_run(trained).metrics()["images"]["test"]
    assert result.record.reference == "onnx fp32 artifact onnx-fp32"
    assert result.comparison.auroc == pytest.approx((finished_run(trained).metrics()["test"]["auroc"],) * 2, abs=1e-6)


def test_images_of_the_users_own(trained: Path, synthetic: Path, pixel_cache: Path, tmp_path: Path) -> None:
    """Away from the recorded predictions, PyTorch says again what it said."""
    said = read_predictions(finished_run(trained)).side("test")
    names = finished_run(trained).config.model.classes
    rows = [f"{synthetic / i},{names[k]}" for i, k in zip(said.ids, said.labels, strict=True)]
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    result = verify(trained / "onnx-fp32", data=table, cache=pixel_cache)
    recorded = verify(trained / "onnx-fp32", cache=pixel_cache)
    assert result.record.split == "mine.csv"
    assert result.comparison.auroc == pytest.approx(recorded.comparison.auroc)
    assert result.comparison.changes.patients is None


@pytest.mark.parametrize(
    ("result", "within", "kept"),
    [("pass", True, True), ("inconclusive", True, True), ("inconclusive", False, False), ("fail", False, False)],
)
def test_what_an_export_keeps(trained: Path, pixel_cache: Path, result: str, within: bool, kept: bool) -> None:
    check = verify(trained / "onnx-fp32", cache=pixel_cache)
    judged = check.verdict.model_copy(update={"result": result, "within": within})
    assert replace(check, verdict=judged).acceptable is kept


def test_images_without_labels(trained: Path, synthetic: Path, pixel_cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "loose"
    folder.mkdir()
    for image in sorted(synthetic.rglob("*.png"))[::6]:
        shutil.copy(image, folder)
    result = verify(trained / "onnx-fp32", data=folder, cache=pixel_cache)
    assert (result.comparison.images, result.comparison.labelled) == (10, False)
    assert result.verdict.result == "pass"
    assert result.examples[0].label is None
    assert "AUROC" not in result.verdict.reason


def test_training_images_are_told(
    trained: Path, synthetic: Path, tmp_path: Path, pixel_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Among others: the run's own images alone are its data at another place, and mean its test split."""
    mixed = write_synthetic(tmp_path / "mixed", images=20, size=32, seed=2)
    sides = {row.id: row.side for row in read_split(finished_run(trained).split)}
    learned = [image for image, side in sides.items() if side == "train"][:5]
    for number, image in enumerate(learned):
        shutil.copy(synthetic / image, mixed / f"{number}.png")
    with (mixed / "labels.csv").open("a") as table:
        columns = (mixed / "labels.csv").read_text().splitlines()[0].split(",")
        for number, image in enumerate(learned):
            cells = {"path": f"{number}.png", "label": "lesion" if "lesion" in image else "healthy"}
            table.write(",".join(cells.get(name, "") for name in columns) + "\n")
    command = ["verify", trained / "onnx-fp32", "--data", mixed / "labels.csv", "--cache", pixel_cache]
    assert call([*map(str, command), "--allow-inconclusive"]) == 0
    assert "5 of 25 images are among those the run was trained on" in capsys.readouterr().err


def test_what_can_be_read_without_labels(tmp_path: Path, synthetic: Path) -> None:
    image = sorted(synthetic.rglob("*.png"))[0]
    table = tmp_path / "paths.csv"
    table.write_text(f"path\n{image}\n")
    archive = tmp_path / "images.npz"
    np.savez(archive, test_images=np.zeros((3, 8, 8), dtype=np.uint8))
    for path, ids in ((table, [image.as_posix()]), (archive, ["test/00000", "test/00001", "test/00002"])):
        items = read_items(path, Multiclass(("a", "b"))).items
        assert [item.id for item in items] == ids
        assert {item.label for item in items} == {UNKNOWN}
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BadInputError, match="holds no image"):
        read_items(tmp_path / "nothing", Multiclass(("a", "b")))
    with pytest.raises(BadInputError, match="no such file"):
        read_items(tmp_path / "nowhere.csv", Multiclass(("a", "b")))


def test_the_test_side_of_a_divided_set_is_taken(tmp_path: Path) -> None:
    archive = tmp_path / "divided.npz"
    sides = {f"{side}_images": np.zeros((n, 8, 8), dtype=np.uint8) for side, n in (("train", 6), ("test", 4))}
    labels = {name.replace("images", "labels"): np.arange(len(a)) % 2 for name, a in sides.items()}
    np.savez(archive, **sides, **labels)
    items = read_items(archive, Multiclass(("a", "b"))).items
    assert [item.id for item in items] == [f"test/{i:05d}" for i in range(4)]
    assert [item.label for item in items] == [0, 1, 0, 1]


def test_what_cannot_be_compared_is_refused(alone: Path, trained: Path, run_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="--against"):
        verify(alone)
    with pytest.raises(BadInputError, match="--data"):
        verify(alone, against=alone)
    metrics = json.loads((run_copy / "metrics.json").read_text())
    other = run_copy / "best.safetensors"
    other.write_bytes(other.read_bytes() + b" ")
    from ttl_deploy import files

    files.write_json(run_copy / "metrics.json", metrics | {"weights_sha256": files.sha256(other)})
    with pytest.raises(IntegrityError, match="other weights"):
        verify(alone, against=run_copy)
    assert open_artifact(alone).manifest.parity is not None


def edited(
    source: Path, out: Path, edit: Callable[[onnx.ModelProto], None] = lambda proto: None, **changes: Any
) -> Artifact:
    """A whole and valid artifact with an edited graph and other facts, in the manifest and in the graph's own words."""
    original = open_artifact(source)
    proto = onnx.load(original.model_path)
    edit(proto)
    words = {prop.key: prop.value for prop in proto.metadata_props}
    if "preprocess" in changes:
        words["ttl_deploy.preprocess"] = changes["preprocess"].model_dump_json()
    helper.set_model_props(proto, words)

    def build(folder: Path) -> str:
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        return "model.onnx"

    kept = original.manifest.model_dump(exclude={"files", "model_file", "parity"})
    return write_artifact(out, kept | changes, build)


def scaled_by(factor: float) -> Callable[[onnx.ModelProto], None]:
    """Multiplies the logits."""

    def edit(proto: onnx.ModelProto) -> None:
        head = next(node for node in reversed(proto.graph.node) if node.op_type in ("Gemm", "MatMul"))
        for tensor in proto.graph.initializer:
            if tensor.name in head.input[1:]:
                values = numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return edit


def passes(artifact: Artifact, trained: Path, pixel_cache: Path) -> bool:
    """Whether a damaged artifact gets through; being refused before any number is as good as failing."""
    try:
        return verify(artifact.folder, against=trained, cache=pixel_cache).acceptable
    except IntegrityError:
        return False


@pytest.mark.parametrize("said", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("factor", [1.002, 5.0])
def test_a_float_graph_gets_the_bounds_of_one_whatever_its_manifest_says(
    trained: Path, tmp_path: Path, pixel_cache: Path, said: str, factor: float
) -> None:
    """A fifth of a percent is inside the bounds of fp16, and far outside of what a float graph may differ by."""
    runtime = "openvino" if said == "bf16" else "onnxruntime"
    bad = edited(trained / "onnx-fp32", tmp_path / "bad", scaled_by(factor), precision=said)
    try:
        found = verify(bad.folder, against=trained, cache=pixel_cache, placement=Placement(runtime=runtime))
    except IntegrityError as error:
        assert said in error.what
        return
    assert found.verdict.result == "fail"
    assert found.record.precision == "fp32"
    assert f"judged as fp32: the manifest says {said}, the graph's weights are fp32" in found.record.reason
    assert "judged as fp32" in found.notes[0]


def test_small_faults_of_a_float_graph_fail(trained: Path, tmp_path: Path, pixel_cache: Path) -> None:
    def flipped(proto: onnx.ModelProto) -> None:
        """The largest weight of the last convolution."""
        last = [node for node in proto.graph.node if node.op_type == "Conv"][-1]
        tensor = next(t for t in proto.graph.initializer if t.name == last.input[1])
        values = numpy_helper.to_array(tensor).copy()
        values.flat[np.abs(values).argmax()] *= -1
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    def rounded(proto: onnx.ModelProto) -> None:
        """All weights to float16, kept as float32."""
        for tensor in proto.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim > 1:
                half = values.astype(np.float16).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))

    for name, edit in (("flipped", flipped), ("rounded", rounded)):
        bad = edited(trained / "onnx-fp32", tmp_path / name, edit)
        assert not passes(bad, trained, pixel_cache), name
    assert passes(edited(trained / "onnx-fp32", tmp_path / "same"), trained, pixel_cache)


OTHER = {
    "crop": {"crop": "none"},
    "bit depth": {"high_bit_depth": "min-max"},
    "mean": {"mean": (0.485, 0.456, 0.407)},
    "std": {"std": (0.229, 0.224, 0.226)},
}


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER)
def test_other_preprocessing_fails_unless_it_is_meant(
    trained: Path, tmp_path: Path, pixel_cache: Path, changes: dict[str, Any]
) -> None:
    """The images are square and of 8 bits: crop and depth change no pixel of them."""
    rule = open_artifact(trained / "onnx-fp32").manifest.preprocess.model_copy(update=changes)
    other = edited(trained / "onnx-fp32", tmp_path / "other", preprocess=rule)
    found = verify(other.folder, against=trained, cache=pixel_cache)
    (name,) = changes
    assert (found.verdict.result, found.verdict.measure) == ("fail", "preprocessing")
    assert not found.acceptable
    assert f"preprocessing differs: {name} is" in found.record.reason
    assert "--allow-other-preprocessing" in found.record.reason
    assert found.record.preprocessing == found.notes
    meant = verify(other.folder, against=trained, allow_other_preprocessing=True, cache=pixel_cache)
    assert meant.record.preprocessing == found.record.preprocessing
    assert "which is meant" in meant.record.reason
    # What the numbers say is still judged: a crop that changes nothing passes, another mean does not.
    assert meant.verdict.result == ("pass" if name in ("crop", "high_bit_depth") else "fail")


def test_other_preprocessing_is_judged_against_an_artifact_too(
    trained: Path, tmp_path: Path, pixel_cache: Path
) -> None:
    rule = open_artifact(trained / "onnx-fp32").manifest.preprocess.model_copy(update={"crop": "none"})
    other = edited(trained / "onnx-fp32", tmp_path / "other", preprocess=rule)
    assert verify(trained / "onnx-fp32", against=other.folder, cache=pixel_cache).verdict.measure == "preprocessing"


def test_a_sigmoid_shows_what_a_softmax_forgets(trained: Path, tmp_path: Path, pixel_cache: Path) -> None:
    """A constant on all logits: harmless behind a softmax, another probability behind a sigmoid."""

    def add(proto: onnx.ModelProto) -> None:
        output = proto.graph.output[0].name
        last = next(node for node in proto.graph.node if output in node.output)
        constant = numpy_helper.from_array(np.float32(1), "constant")
        proto.graph.initializer.append(constant)
        source = last.input[0]
        last.input[0] = "moved"
        place = list(proto.graph.node).index(last)
        proto.graph.node.insert(place, helper.make_node("Add", [source, "constant"], ["moved"], name="added"))

    from ttl_deploy.formats.export_run import export_run

    kept = {}
    for activation in ("softmax", "sigmoid"):
        sound = export_run(trained, out=tmp_path / activation, cache=pixel_cache, activation=activation)
        kept[activation] = passes(edited(sound.folder, tmp_path / f"{activation}-moved", add), trained, pixel_cache)
    assert kept == {"softmax": True, "sigmoid": False}
