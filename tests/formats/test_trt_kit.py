"""TensorRT without TensorRT: the kit, from the run to the check on the target, against doubles."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorrt_double as double

import ttl_deploy
from ttl_deploy import files, hardware
from ttl_deploy.artifact import open_artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError, TtlDeployError
from ttl_deploy.formats import trt_engine
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.formats.kit import build_engine, verify_engine
from ttl_deploy.formats.kit.build_engine import BuildError, Settings, refuse_for_rtx
from ttl_deploy.formats.samples import made_up
from ttl_deploy.formats.trt_engine import TrtOptions
from ttl_deploy.formats.trt_lint import lint
from ttl_deploy.inputs.image import normalise
from ttl_deploy.runtime import cuda_driver, trt, trt_rtx
from ttl_deploy.runtime.cuda_driver import Device
from ttl_deploy.runtime.stored_samples import read_samples
from ttl_deploy.spec import Trust
from ttl_deploy.training.run import finished_run

SCRIPTS = {
    "build_engine.py": "formats/kit/build_engine.py",
    "verify_engine.py": "formats/kit/verify_engine.py",
    "trt_engine_run.py": "runtime/trt_engine_run.py",
    "cuda_driver.py": "runtime/cuda_driver.py",
}
PACKAGE = Path(str(ttl_deploy.__file__)).parent


@pytest.fixture(scope="module")
def kit(trained: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kits") / "kit"
    return export_run(
        trained, format="trt", precision="fp16", defer_build=True, out=out, max_batch=4, cache=pixel_cache
    ).folder


@pytest.fixture
def kit_copy(kit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kit, tmp_path / "kit"))


def test_without_tensorrt_the_way_out_is_said(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    if hardware.describe().gpus:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingDependencyError, match="no NVIDIA GPU is here; pass --defer-build") as error:
        export_run(trained, format="trt", out=tmp_path / "engine", cache=pixel_cache)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInputError, match="format onnx has no build kit; --defer-build is for trt"):
        export_run(trained, format="onnx", defer_build=True, out=tmp_path / "kit", cache=pixel_cache)


def test_a_kit_is_an_artifact_whose_graph_passed_parity(kit: Path) -> None:
    manifest = open_artifact(kit).manifest
    assert (manifest.format, manifest.precision, manifest.details["kit"]["precision"]) == ("onnx", "fp16", "fp16")
    assert manifest.parity is not None
    assert manifest.parity.verdict == "pass"
    files = {"model.onnx", "profile.json", "samples.npz", "README.md", "model_card.md", "trtexec.sh", *SCRIPTS}
    assert files == set(manifest.files)
    proto = onnx.load(kit / "model.onnx")
    assert lint(proto) == []
    assert {t.data_type for t in proto.graph.initializer if len(t.dims) > 1} == {onnx.TensorProto.FLOAT16}
    assert manifest.files["samples.npz"].size < 200_000


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_our_own_files_word_for_word(kit: Path, script: str) -> None:
    assert (kit / script).read_bytes() == (PACKAGE / SCRIPTS[script]).read_bytes()


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_need_tensorrt_and_numpy_alone(kit: Path, script: str) -> None:
    tree = ast.parse((kit / script).read_text(), feature_version=(3, 10))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) <= {"tensorrt", "numpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            said = ast.unparse(node.args[0])
            assert (script, said) == ("build_engine.py", "name") or (kit / f"{ast.literal_eval(said)}.py").exists()


def test_the_profile_is_the_builder_s(kit: Path) -> None:
    settings = Settings.of(json.loads((kit / "profile.json").read_text()))
    assert settings == Settings("fp16", "images", (1, 3, 32, 32), (1, 3, 32, 32), (4, 3, 32, 32))
    line = (kit / "trtexec.sh").read_text()
    assert "--maxShapes=images:4x3x32x32" in line
    assert line.count("--stronglyTyped") == 1


def test_samples_are_what_the_graph_makes_of_validation_images(kit: Path, trained: Path) -> None:
    with np.load(kit / "samples.npz", allow_pickle=False) as samples:
        batch = verify_engine.inputs_of(samples)
        np.testing.assert_array_equal(batch, normalise(samples["pixels"], finished_run(trained).config.preprocess))
        session = onnxruntime.InferenceSession(kit / "model.onnx", providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"images": batch})
        np.testing.assert_allclose(samples["expected"], logits, atol=2e-3)
        np.testing.assert_allclose(samples["expected"], samples["pytorch"], atol=2e-2)


def test_a_kit_without_images(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    made = export_run(
        trained, format="trt", precision="tf32", defer_build=True, samples=0, out=tmp_path / "kit", cache=pixel_cache
    )
    assert (made.manifest.precision, made.manifest.details["kit"]["precision"]) == ("fp32", "tf32")
    assert json.loads((made.folder / "profile.json").read_text())["precision"] == "tf32"
    assert "--noTF32" not in (made.folder / "trtexec.sh").read_text()
    assert "random pixels" in (made.folder / "README.md").read_text()
    with np.load(made.folder / "samples.npz", allow_pickle=False) as samples:
        np.testing.assert_array_equal(samples["pixels"], made_up(8, (32, 32, 3)))


def test_an_int8_kit_is_symmetric_and_passes_the_lint(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "kit"
    made = export_run(trained, format="trt", precision="int8", defer_build=True, out=out, cache=pixel_cache)
    proto = onnx.load(made.model_path)
    operators = {node.op_type for node in proto.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert lint(proto) == []
    assert made.manifest.details["quantisation"]


def on_target(
    kit: Path,
    tensorrt: ModuleType | None,
    driver: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    *arguments: str,
) -> int:
    """Runs a script of the kit as `python SCRIPT` would, with another TensorRT or none, and a double of `libcuda`."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", [str(kit / script), *arguments])
    monkeypatch.syspath_prepend(str(kit))
    monkeypatch.setenv("FAKE_CUDA_LOG", str(kit.parent / "log"))
    for name in ("cuda_driver", "trt_engine_run"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("cuda_driver", kit / "cuda_driver.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cuda_driver", module)
    spec.loader.exec_module(module)
    module.LIBRARY = str(driver)  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(kit / script), run_name="__main__")
    return int(ended.value.code or 0)


@pytest.fixture
def behaviour(fake_driver: Path) -> double.Behaviour:
    return double.Behaviour(driver=ctypes.CDLL(str(fake_driver)), shape=(3, 32, 32), classes=2, profiles=((1, 1, 4),))


def test_the_target_builds_an_artifact_that_ttl_deploy_opens(
    kit_copy: Path, behaviour: double.Behaviour, fake_driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_target(kit_copy, double.make(behaviour), fake_driver, monkeypatch, "build_engine.py") == 0
    artifact = open_artifact(kit_copy / "artifact")
    manifest = artifact.manifest
    assert (manifest.format, manifest.precision, manifest.model_file) == ("trt", "fp16", "model.engine")
    assert artifact.model_path.read_bytes() == b"plan"
    assert (artifact.folder / "samples.npz").read_bytes() == (kit_copy / "samples.npz").read_bytes()
    assert json.loads((artifact.folder / "engine.json").read_text()) == {"Layers": double.FP16_LAYERS}
    engine = manifest.details["engine"]
    assert (engine["gpu"], engine["compute_capability"]) == ("Quadro RTX 6000", "7.5")
    assert (engine["tensorrt"], manifest.tools["tensorrt"]) == ("11.4.0.106", "11.4.0.106")
    assert engine["layers"] == {"fp16": 2}
    assert manifest.parity is None
    assert manifest.source == open_artifact(kit_copy).manifest.source
    trt.refuse_foreign(engine, Device("Quadro RTX 6000", "7.5"), "11.4.0.106", artifact.folder)
    assert (kit_copy / "timing.cache").read_bytes() == b"+timed"
    behaviour.known_cache = b"+timed"
    assert on_target(kit_copy, double.make(behaviour), fake_driver, monkeypatch, "build_engine.py") == 0
    assert ("set_timing_cache", b"+timed", False) in behaviour.calls


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("cuda_graph", [[], ["--cuda-graph"]])
def test_verification_on_the_target_passes_and_fails(
    kit_copy: Path,
    behaviour: double.Behaviour,
    fake_driver: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    right: bool,
    cuda_graph: list[str],
) -> None:
    """The double's network is a matrix product, so its own outputs are put into the samples as the expected ones."""
    assert on_target(kit_copy, double.make(behaviour), fake_driver, monkeypatch, "build_engine.py") == 0
    with np.load(kit_copy / "samples.npz") as samples:
        content: dict[str, Any] = dict(samples)
        batch = verify_engine.inputs_of(samples)
    outputs = batch.reshape(len(batch), -1) @ double.weights((3, 32, 32), 2)
    content["expected"] = outputs if right else outputs[:, ::-1]
    np.savez(kit_copy / "samples.npz", **content)
    code = on_target(kit_copy, double.make(behaviour), fake_driver, monkeypatch, "verify_engine.py", *cuda_graph)
    said = capsys.readouterr().out
    assert code == (0 if right else 1)
    assert said.splitlines()[1].startswith("pass: fp16" if right else "fail: fp16")


def test_without_an_engine_verification_says_so(
    kit_copy: Path, fake_driver: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_target(kit_copy, None, fake_driver, monkeypatch, "verify_engine.py") == 2
    assert "run build_engine.py first" in capsys.readouterr().err


def test_what_verification_bears() -> None:
    expected = np.array([[0.0, 2.0], [2.0, 0.0], [0.5, 0.501]])
    assert verify_engine.compare(expected, expected + 1e-4, "fp32")[0]
    assert not verify_engine.compare(expected, expected + 1e-2, "fp32")[0]
    # The third image is between the classes: it may fall to the other side, a clear one may not.
    assert verify_engine.compare(expected, expected + np.array([[0, 0], [0, 0], [0.002, 0]]), "fp16")[0]
    assert not verify_engine.compare(expected, expected[:, ::-1], "int8")[0]
    assert not verify_engine.compare(expected, expected * np.nan, "int8")[0]
    assert not verify_engine.compare(expected, expected[:2], "int8")[0]


needs_rtx = pytest.mark.skipif(trt_rtx.missing() is not None, reason=str(trt_rtx.missing()))


class TestTheOtherEdition:
    """TensorRT for RTX builds the kit: the real library, for cards that are not here. None of its engines is run."""

    def built(self, kit: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The script by itself, where this project cannot be seen."""
        command = [sys.executable, "build_engine.py", *arguments]
        outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, cwd=kit, env=outside, capture_output=True, text=True, check=False)

    @needs_rtx
    def test_engines_for_named_cards_are_built_where_no_gpu_is(self, kit_copy: Path) -> None:
        done = self.built(kit_copy, "--for", "sm75,sm86")
        assert (done.returncode, done.stderr) == (0, "")
        assert "engines for sm75, sm86, layers {'fp16': " in done.stdout
        manifest, of_the_kit = (open_artifact(folder).manifest for folder in (kit_copy / "artifact", kit_copy))
        assert (manifest.format, manifest.precision, manifest.model_file) == ("onnx", "fp16", "model.onnx")
        assert set(manifest.files) == {"model.onnx", "samples.npz", "model-sm75.engine", "model-sm86.engine"}
        assert (manifest.parity, manifest.source) == (of_the_kit.parity, of_the_kit.source)
        assert "kit" not in manifest.details
        rtx = manifest.details["rtx"]
        assert manifest.tools["tensorrt_rtx"] == rtx["tensorrt_rtx"] == trt_rtx.import_rtx().__version__
        assert rtx["profile"]["maximum"] == [4, 3, 32, 32]
        assert rtx["profile"]["optimization_level"] is None
        for name, engine in rtx["engines"].items():
            assert manifest.files[engine["file"]].size == engine["bytes"] > 100_000, name

    @needs_rtx
    def test_its_artifact_is_that_of_the_exporter(
        self, kit_copy: Path, trained: Path, pixel_cache: Path, tmp_path: Path
    ) -> None:
        assert self.built(kit_copy, "--for", "sm89").returncode == 0
        options = {"targets": "sm89", "samples": 16, "max_batch": 4, "cache": pixel_cache}
        exported = export_run(trained, format="trt-rtx", precision="fp16", out=tmp_path / "rtx", **options).manifest
        ours = open_artifact(kit_copy / "artifact").manifest

        def without_size(details: dict[str, Any]) -> Any:
            """Names of symbols differ from build to build, and so do sizes."""
            engines = {name: {**engine, "bytes": 0} for name, engine in details["rtx"]["engines"].items()}
            return {**details, "rtx": {**details["rtx"], "engines": engines}}

        assert without_size(ours.details) == without_size(exported.details)
        assert set(exported.files) - set(ours.files) == {"model_card.md"}
        for name in ("model.onnx", "samples.npz"):
            assert ours.files[name].size == exported.files[name].size
        changed = {"details", "files", "created", "tools", "cost"}
        assert ours.model_dump(exclude=changed) == exported.model_dump(exclude=changed)

    @needs_rtx
    def test_without_full_tensorrt_the_card_that_is_here_is_built_for(
        self, kit_copy: Path, behaviour: double.Behaviour, fake_driver: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The driver is a double, whose card is a Quadro RTX 6000; so is what runs the engine, whose outputs differ."""
        assert on_target(kit_copy, None, fake_driver, monkeypatch, "build_engine.py") == 0
        artifact = open_artifact(kit_copy / "artifact", trust=Trust(native_code=True))
        assert list(artifact.manifest.details["rtx"]["engines"]) == ["sm75"]
        real = str(trt_rtx.import_rtx().__version__)
        monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake_driver))
        monkeypatch.setattr(trt_rtx, "kernel_folder", lambda: kit_copy / "kernels")
        monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", double.make(behaviour, real, rtx=True))
        monkeypatch.setattr(trt_rtx, "_installed", lambda: "tensorrt_rtx_bindings")
        with pytest.raises(IntegrityError, match=r"model-sm75\.engine: does not compute on this GPU"):
            trt_rtx.RtxSession(artifact, threads=1, device="cuda")
        plan = (artifact.folder / "model-sm75.engine").read_bytes()
        assert ("deserialize_cuda_engine", plan) in behaviour.calls

    @needs_rtx
    @pytest.mark.parametrize(
        ("profile", "cards", "refused"),
        [
            ({}, "sm86,sm90", "builds nothing for sm90, but for sm75, .*; install tensorrt"),
            ({"precision": "int8"}, "sm86,sm75", "int8 cannot be had for sm75: .* all float; write the kit with"),
            ({"precision": "int8"}, "sm86", "does not run int8: its computing layers are [0-9]+ fp16"),
            ({"precision": "tf32"}, "sm86", "no tf32 is built with TensorRT for RTX"),
        ],
    )
    def test_what_cannot_be_had_is_one_line_and_leaves_nothing(
        self, kit_copy: Path, profile: dict[str, Any], cards: str, refused: str
    ) -> None:
        settings = json.loads((kit_copy / "profile.json").read_text()) | profile
        (kit_copy / "profile.json").write_text(json.dumps(settings))
        manifest = json.loads((kit_copy / "manifest.json").read_text())
        manifest["files"].pop("profile.json")
        (kit_copy / "manifest.json").write_text(json.dumps(manifest))
        done = self.built(kit_copy, "--for", cards)
        assert done.returncode == 2
        assert re.search(refused, done.stderr)
        assert done.stderr.count("\n") == 1
        assert not (kit_copy / "artifact").exists()

    @needs_rtx
    def test_a_kit_that_was_changed_is_not_built(self, kit_copy: Path) -> None:
        content = bytearray((kit_copy / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (kit_copy / "model.onnx").write_bytes(content)
        done = self.built(kit_copy, "--for", "sm86")
        assert done.returncode == 2
        assert "model.onnx: is missing or has changed" in done.stderr
        assert not (kit_copy / "artifact").exists()

    @needs_rtx
    def test_another_folder_is_not_replaced(self, kit_copy: Path, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        done = self.built(kit_copy, "--for", "sm86", "--out", str(tmp_path / "mine"))
        assert done.returncode == 2
        assert "exists and is no artifact; choose another --out" in done.stderr
        assert (tmp_path / "mine" / "thesis.txt").exists()

    @needs_rtx
    @pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
    @pytest.mark.parametrize(
        ("devices", "said"), [("0", "the driver sees no GPU"), ("1", "cannot load the engine it built: .*cudaError 35")]
    )
    def test_a_build_that_fails_leaves_nothing(
        self,
        kit_copy: Path,
        fake_driver: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        devices: str,
        said: str,
    ) -> None:
        """In the place of full TensorRT, the library builds for a card of which it finds no driver."""
        if hardware.describe().gpus:
            pytest.skip("this machine has a GPU")
        monkeypatch.setenv("FAKE_CUDA_DEVICES", devices)
        assert on_target(kit_copy, trt_rtx.import_rtx(), fake_driver, monkeypatch, "build_engine.py") == 2
        error = capsys.readouterr().err
        assert error == f"error: {error[7:].strip()}\n"
        assert re.search(said, error)
        assert not (kit_copy / "artifact").exists()

    @needs_rtx
    def test_in_fp32_for_turing_the_way_out_is_said(self, trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
        """Its head must be rewritten, which is done where the run is."""
        out = tmp_path / "kit"
        export_run(trained, format="trt", precision="fp32", defer_build=True, samples=0, out=out, cache=pixel_cache)
        done = self.built(out, "--for", "sm75")
        assert done.returncode == 2
        assert re.search(
            r"FP32 GEMM is not supported.*; ttl-deploy export RUN --format trt-rtx .*--for sm75", done.stderr
        )
        assert self.built(out, "--for", "sm86").returncode == 0

    @needs_rtx
    def test_without_a_gpu_and_a_card_s_name_the_way_out_is_said(self, kit_copy: Path) -> None:
        if hardware.describe().gpus or importlib.util.find_spec("tensorrt") is not None:
            pytest.skip("this machine has a GPU, or full TensorRT")
        done = self.built(kit_copy)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "no NVIDIA driver is installed; pass --for sm75,sm86" in done.stderr

    @pytest.mark.parametrize(
        "more", [{"version_compatible": True}, {"hardware": "same-compute-capability"}, {"optimization_level": 5}]
    )
    def test_what_the_library_ignores_is_refused(self, more: dict[str, Any]) -> None:
        shapes = ((1, 3, 8, 8),) * 3
        refuse_for_rtx(Settings("fp16", "images", *shapes), "sm75")
        with pytest.raises(BuildError, match=f"ignores .*{next(iter(more))}"):
            refuse_for_rtx(Settings("fp16", "images", *shapes, **more), "sm75")

    def test_full_tensorrt_comes_first_where_both_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        full, other = ModuleType("tensorrt"), ModuleType("tensorrt_rtx")
        monkeypatch.setitem(sys.modules, "tensorrt", full)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", other)
        assert build_engine.RTX_MODULES == trt_rtx.MODULES
        assert build_engine.library() == (full, False)
        assert build_engine.library(ahead=True) == (other, True)
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        assert build_engine.library() == (other, True)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
        with pytest.raises(
            ModuleNotFoundError, match="no module named tensorrt or tensorrt_rtx_bindings or tensorrt_rtx"
        ):
            build_engine.library()

    def test_verification_takes_the_engine_of_the_card(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("tensorrt_rtx_bindings")
        module.__version__ = "1.7.1.116"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", module)
        monkeypatch.setitem(sys.modules, "build_engine", build_engine)
        built = {name: build_engine.Built(b"plan", {}) for name in ("sm75", "sm120")}
        settings = Settings("fp16", "images", *((1, 3, 8, 8),) * 3)
        rtx = build_engine.rtx_details("1.7.1.116", settings, built, build_engine.AS_EXPORTED)
        name, how = verify_engine.engine_for({"details": {"rtx": rtx}}, "12.0")
        assert (name, how) == ("model-sm120.engine", {"trt": module, "kernels": b""})
        with pytest.raises(ValueError, match=r"engines for 7\.5, 12\.0, this GPU has 9\.0"):
            verify_engine.engine_for({"details": {"rtx": rtx}}, "9.0")
        module.__version__ = "1.7.1.117"  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"1\.7\.1\.116 built the engines and .* here is 1\.7\.1\.117"):
            verify_engine.engine_for({"details": {"rtx": rtx}}, "7.5")


class TestBuildHere:
    """The exporter on a machine with doubles of a GPU and of TensorRT."""

    @pytest.fixture
    def machine(
        self, behaviour: double.Behaviour, fake_driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake_driver))
        monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
        monkeypatch.setitem(sys.modules, "tensorrt", double.make(behaviour))
        monkeypatch.setattr(trt, "available", lambda: None)

    def written(self, trained: Path, folder: Path, precision: str = "fp16", **options: Any) -> Any:
        from ttl_deploy.complexity import count
        from ttl_deploy.formats.export_run import source_record
        from ttl_deploy.formats.exporter import ExportJob
        from ttl_deploy.training.train import load_model

        run = finished_run(trained)
        folder.mkdir()
        model = load_model(run)
        job = ExportJob(
            model,
            run.config.preprocess,
            precision,
            TrtOptions(**options),
            source=source_record(run),
            cost=count(model, model.spec.input_shape),
        )
        return trt_engine.TrtExporter().write(job, folder)

    def test_engine_layers_and_timing_cache_are_kept(self, machine: None, trained: Path, tmp_path: Path) -> None:
        made = self.written(trained, tmp_path / "engine", max_batch=4)
        assert (tmp_path / "engine" / made.model_file).read_bytes() == b"plan"
        assert json.loads((tmp_path / "engine" / "engine.json").read_text())["Layers"] == double.FP16_LAYERS
        assert (tmp_path / "tensorrt-11.4.0.106-sm75.timing-cache").read_bytes() == b"+timed"
        assert made.details["engine"]["gpu"] == "Quadro RTX 6000"
        assert made.details["engine"]["profile"]["maximum"] == [4, 3, 32, 32]
        assert made.runtime == "tensorrt"
        assert len(read_samples(tmp_path / "engine" / "samples.npz").pixels) == 8

    @pytest.fixture
    def without_library(self, fake_driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A GPU, and a TensorRT that nobody asks for more than its version."""
        monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake_driver))
        monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
        monkeypatch.setattr(trt_engine, "import_tensorrt", lambda: SimpleNamespace(__version__="11.4.0.106"))

    def test_the_same_builder_gets_the_same_graph_as_in_a_kit(
        self, without_library: None, trained: Path, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[bytes] = []

        def build(onnx: bytes, *_: Any) -> None:
            given.append(onnx)
            raise BuildError("no further")

        monkeypatch.setattr(build_engine, "build", build)
        with pytest.raises(TtlDeployError, match="no further"):
            self.written(trained, tmp_path / "engine")
        (proto,) = map(onnx.load_from_string, given)
        in_kit = onnx.load(kit / "model.onnx")
        assert len(given[0]) == (kit / "model.onnx").stat().st_size
        assert proto.graph == in_kit.graph

    def test_another_precision_is_refused(
        self, machine: None, trained: Path, tmp_path: Path, behaviour: double.Behaviour
    ) -> None:
        behaviour.layers = double.typed("Row major linear FP32")
        with pytest.raises(TtlDeployError, match="does not run fp16: its computing layers are 3 fp32"):
            self.written(trained, tmp_path / "engine")
        assert not list((tmp_path / "engine").iterdir())

    def test_turing_has_no_tf32(self, without_library: None, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(TtlDeployError, match="has no TF32"):
            self.written(trained, tmp_path / "engine", "tf32")

    @pytest.mark.parametrize("samples_checked", [True, False])
    def test_a_whole_export_of_a_wrong_engine_fails_and_leaves_nothing(
        self,
        machine: None,
        trained: Path,
        pixel_cache: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        samples_checked: bool,
    ) -> None:
        """The double's network is not the run's: the samples say so when it is loaded, and parity would say so too."""
        from ttl_deploy.errors import CheckFailedError
        from ttl_deploy.runtime import RUNTIMES, engine_session

        for name in ("tensorrt", "tensorrt-cuda-graph"):
            engine = RUNTIMES.get(name)
            monkeypatch.setitem(RUNTIMES._entries, name, type(engine)(**{**vars(engine), "available": lambda: None}))
        if not samples_checked:
            monkeypatch.setattr(engine_session, "refuse_wrong", lambda *_: None)
        refused = IntegrityError if samples_checked else CheckFailedError
        with pytest.raises(refused, match=r"does not compute on this GPU|not the validated one"):
            export_run(trained, format="trt", precision="fp16", out=tmp_path / "a" / "engine", cache=pixel_cache)
        assert [path.suffix for path in (tmp_path / "a").iterdir()] == [".timing-cache"]


def test_batches_out_of_order_are_refused(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"batches 4 \(min\), 1 \(opt\) and 32 \(max\) are not in order"):
        export_run(trained, format="trt", defer_build=True, min_batch=4, out=tmp_path / "kit", cache=pixel_cache)
    with pytest.raises(BadInputError, match="hardware"):
        export_run(trained, format="trt", defer_build=True, hardware="turing", out=tmp_path / "kit", cache=pixel_cache)
    assert not list(tmp_path.iterdir())


def test_a_kit_is_reproducible(kit: Path, trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    again = export_run(
        trained, format="trt", precision="fp16", defer_build=True, max_batch=4, out=tmp_path / "kit", cache=pixel_cache
    )
    for name in set(again.manifest.files) - {"samples.npz"}:
        assert files.sha256(again.folder / name) == files.sha256(kit / name), name
