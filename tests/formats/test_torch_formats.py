"""PyTorch's own formats: the numbers of the model for any batch, no pickle, the same bytes twice."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy.artifact import Artifact, open_artifact, update_manifest, write_artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.formats.exporter import EXPORTERS, ExportJob
from ttl_deploy.formats.pt2 import PACKAGE_FILE
from ttl_deploy.prediction.predict import predict
from ttl_deploy.runtime import load
from ttl_deploy.runtime.torch_guard import check_program
from ttl_deploy.spec import FileRecord, InputSpec, ModelSpec, Placement, PreprocessSpec
from ttl_deploy.transfer import TransferModel, build

SPECS = {
    "resnet18": ModelSpec(backbone="resnet18", method="ttl", cut="layer1.1", classes=("a", "b", "c"), image_size=32),
    "densenet121": ModelSpec(backbone="densenet121", method="ttl", cut="block:1", classes=("a", "b"), image_size=32),
    "efficientnet_b0": ModelSpec(
        backbone="efficientnet_b0", method="ttl", cut="block:1", classes=("a", "b"), image_size=32
    ),
    # Whole: its padding follows the size of the image, in every layer with a stride.
    "tf_efficientnet_lite0": ModelSpec(
        backbone="tf_efficientnet_lite0", method="ftl", classes=("a", "b"), image_size=32
    ),
}
FORMATS = [("pt2", "fp32"), ("pt2", "bf16"), ("pt2", "fp16"), ("torchscript", "fp32")]
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 5e-3}


def made(spec: ModelSpec) -> TransferModel:
    """A model whose batch norms hold statistics other than 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(spec)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


@pytest.fixture
def export(artifact: Artifact, tmp_path: Path) -> Callable[..., Artifact]:
    """Writes a model as an artifact of a format, without a run."""

    def write(format: str, precision: str, model: TransferModel, name: str = "made", **options: bool) -> Artifact:
        exporter, preprocess = EXPORTERS.get(format), PreprocessSpec.of(InputSpec.image(32))
        job = ExportJob(model, preprocess, precision, exporter.options(**options))
        details: dict[str, Any] = {}

        def build_files(folder: Path) -> str:
            written = exporter.write(job, folder)
            details.update(written.details)
            return written.model_file

        known = artifact.manifest.model_dump(exclude={"files", "model_file"})
        fields = {**known, "format": format, "precision": precision, "model": model.spec, "preprocess": preprocess}
        return update_manifest(write_artifact(tmp_path / name, fields, build_files), details=details)

    return write


def images(spec: ModelSpec, count: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(count, *spec.input_shape)).astype(np.float32)


@pytest.mark.parametrize(("format", "precision"), FORMATS)
def test_the_numbers_are_pytorch_s_for_any_batch(export: Callable[..., Artifact], format: str, precision: str) -> None:
    model = made(SPECS["resnet18"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    artifact, batch = export(format, precision, model), images(model.spec)
    with torch.inference_mode():
        expected = model(torch.from_numpy(batch)).numpy()
    with load(artifact, Placement(threads=1)) as session:
        assert session.runtime == "torch"
        for rows in (5, 1, 2):
            logits = session.run(batch[:rows])
            np.testing.assert_allclose(logits, expected[:rows], atol=TOLERANCE[precision])
    if precision != "fp32":
        assert not np.array_equal(logits, expected[:2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("format", ["pt2", "torchscript"])
@pytest.mark.parametrize("backbone", ["densenet121", "efficientnet_b0", "tf_efficientnet_lite0"])
def test_other_families_too(export: Callable[..., Artifact], format: str, backbone: str) -> None:
    model = made(SPECS[backbone])
    batch = images(model.spec, 3)
    with torch.inference_mode():
        expected = model(torch.from_numpy(batch)).numpy()
    with load(export(format, "fp32", model), Placement(threads=1)) as session:
        np.testing.assert_allclose(session.run(batch), expected, atol=1e-4)


def test_a_half_precision_program_computes_in_half_precision(export: Callable[..., Artifact]) -> None:
    program = torch.export.load(export("pt2", "fp16", made(SPECS["resnet18"])).model_path)
    heavy = [n for n in program.graph.nodes if any(word in str(n.target) for word in ("conv2d", "linear"))]
    assert len(heavy) > 2
    assert {node.meta["val"].dtype for node in heavy} == {torch.float16}


def test_the_file_holds_no_pickle_and_nothing_of_this_machine(export: Callable[..., Artifact]) -> None:
    for format in ("pt2", "torchscript"):
        path = export(format, "fp32", made(SPECS["resnet18"]), format).model_path
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        for name, record in content.items():
            assert b"site-packages" not in record, name
            assert str(Path.home()).encode() + b"/" not in record, name
            assert str(Path.cwd()).encode() not in record, name
        if format == "pt2":
            check_program(path)


def test_a_program_is_reproducible(export: Callable[..., Artifact]) -> None:
    hashes = {files.sha256(export("pt2", "bf16", made(SPECS["resnet18"]), name).model_path) for name in ("a", "b")}
    assert len(hashes) == 1


def changed(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Rewrites an archive."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("place", ["inputs", "weight", "legacy", "opaque"])
def test_a_pickle_in_an_artifact_is_refused_and_not_run(
    export: Callable[..., Artifact], tmp_path: Path, place: str
) -> None:
    """PyTorch would run each of them; `inputs` is checked to."""
    artifact, trace = export("pt2", "fp32", made(SPECS["resnet18"])), tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save((Bomb(trace),), buffer)

    def plant(records: dict[str, bytes]) -> None:
        root = next(iter(records)).split("/")[0]
        inputs = next(name for name in records if "sample_inputs" in name)
        config = next(name for name in records if name.endswith("_weights_config.json"))
        if place == "inputs":
            records[inputs] = buffer.getvalue()
        elif place == "weight":
            records[config] = records[config].replace(b'"use_pickle": false', b'"use_pickle": true', 1)
        else:
            name = "weights/model.pt" if place == "legacy" else "constants/opaque_obj_0"
            records[f"{root}/data/{name}"] = pickle.dumps(Bomb(trace))

    changed(artifact.model_path, plant)
    record = FileRecord(sha256=files.sha256(artifact.model_path), size=artifact.model_path.stat().st_size)
    artifact = update_manifest(artifact, files={"model.pt2": record})
    with pytest.raises(IntegrityError, match=r"holds .*, which could run any code"):
        load(open_artifact(artifact.folder))
    assert not trace.exists()
    if place == "inputs":
        with contextlib.suppress(Exception):
            torch.export.load(artifact.model_path)
        assert trace.exists()


@pytest.mark.parametrize("format", ["pt2", "torchscript"])
def test_a_file_that_is_no_model_is_one_line(export: Callable[..., Artifact], format: str) -> None:
    artifact = export(format, "fp32", made(SPECS["resnet18"]))
    artifact.model_path.write_bytes(b"PK not a model")
    with pytest.raises(IntegrityError) as error:
        load(artifact)
    assert "\n" not in str(error.value)
    assert artifact.model_path.name in str(error.value)


def test_a_gpu_that_is_not_here_is_said(export: Callable[..., Artifact]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingDependencyError, match="finds no GPU here"):
        load(export("pt2", "fp32", made(SPECS["resnet18"])), Placement(runtime="torch", device="cuda"))


def test_an_artifact_without_a_package_says_so(export: Callable[..., Artifact]) -> None:
    with pytest.raises(BadInputError, match="holds no AOTInductor package; export it with `ttl-deploy export --aot`"):
        load(export("pt2", "fp32", made(SPECS["resnet18"])), Placement(runtime="torch-aot"))


def test_a_package_needs_a_compiler(
    export: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"neither g\+\+ nor clang\+\+ is here"):
        export("pt2", "fp32", made(SPECS["resnet18"]), aot=True)
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_a_compiled_package_computes_the_same(export: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    model = made(SPECS["resnet18"])
    artifact, batch = export("pt2", "fp32", model, aot=True), images(model.spec)
    assert set(artifact.manifest.files) == {"model.pt2", PACKAGE_FILE}
    with torch.inference_mode():
        expected = model(torch.from_numpy(batch)).numpy()
    with load(artifact, Placement(runtime="torch-aot", threads=1)) as session:
        for rows in (5, 1):
            np.testing.assert_allclose(session.run(batch[:rows]), expected[:rows], atol=1e-4)
    with pytest.raises((BadInputError, MissingDependencyError)):
        load(artifact, Placement(runtime="torch-aot", device="cuda"))
    isa = [*artifact.manifest.details["aot"]["isa"], "amx_int8", "avx512_vnni", "i8mm"]
    foreign = update_manifest(artifact, details={"aot": {**artifact.manifest.details["aot"], "isa": isa}})
    with pytest.raises(BadInputError, match=r"compiled for a processor with .*i8mm"):
        load(foreign, Placement(runtime="torch-aot"))


@pytest.mark.parametrize(("format", "precision"), [("pt2", "bf16"), ("torchscript", "fp32")])
def test_a_run_is_exported_checked_and_predicts(
    trained: Path, synthetic: Path, pixel_cache: Path, tmp_path: Path, format: str, precision: str
) -> None:
    made_artifact = export_run(trained, format=format, precision=precision, out=tmp_path / "a", cache=pixel_cache)
    assert made_artifact.manifest.parity is not None
    # bfloat16 may turn one of the few test images, which leaves its labels open.
    assert made_artifact.manifest.parity.verdict in (("pass",) if precision == "fp32" else ("pass", "inconclusive"))
    picture = next(iter(sorted(synthetic.rglob("*.png"))))
    (prediction,) = predict(made_artifact.folder, [str(picture)])
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_an_onnx_artifact_still_needs_no_torch(artifact: Artifact) -> None:
    """The torch runtime is registered beside the others, and imported with them."""
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom pathlib import Path\n"
        "from ttl_deploy.artifact import open_artifact\n"
        f"from ttl_deploy.runtime import load\nload(open_artifact(Path({str(artifact.folder)!r}))).close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
