"""TensorRT for RTX, the real library: engines are built here, on a CPU. None is run; that needs a card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_onnx_graph import SPECS, made

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.cli.main import run as main
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError
from ttl_deploy.formats import rtx_cards, trt_engine, trt_rtx
from ttl_deploy.formats.export_run import choose, export_run
from ttl_deploy.formats.exporter import EXPORTERS
from ttl_deploy.formats.graph_types import to_half
from ttl_deploy.formats.kit.build_engine import (
    GENERATIONS,
    BuildError,
    Settings,
    build_for,
    capability,
    named,
    weighted,
)
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.formats.options import TrtOptions
from ttl_deploy.formats.trt_lint import lint
from ttl_deploy.formats.turing_head import FORMS, rewritten
from ttl_deploy.progress import Silent
from ttl_deploy.runtime import trt
from ttl_deploy.runtime import trt_rtx as runtime
from ttl_deploy.runtime.cuda_driver import Device
from ttl_deploy.runtime.trt_rtx import import_rtx

needs_library = pytest.mark.skipif(runtime.missing() is not None, reason=str(runtime.missing()))


def settings(precision: str, size: int = 48, largest: int = 8) -> Settings:
    shape = (3, size, size)
    return Settings(precision, "images", (1, *shape), (1, *shape), (largest, *shape), optimization_level=None)


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    """A truncated ResNet-18 in fp32."""
    return to_onnx(made(SPECS[0]))


def exported(run: Path, cache: Path, out: Path, precision: str, cards: str, **options: Any) -> Artifact:
    return export_run(
        run, format="trt-rtx", precision=precision, targets=cards, out=out, cache=cache, max_batch=4, **options
    )


@needs_library
def test_an_artifact_holds_the_graph_an_engine_per_card_and_samples(
    trained: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    made = exported(trained, pixel_cache, tmp_path / "rtx", "fp16", "quadro-rtx-6000,sm86,7.5")
    manifest = open_artifact(made.folder).manifest
    assert (manifest.format, manifest.precision, manifest.model_file) == ("onnx", "fp16", "model.onnx")
    assert {"model-sm75.engine", "model-sm86.engine", "samples.npz", "model.onnx"} <= set(manifest.files)
    assert manifest.parity is not None
    assert manifest.parity.verdict == "pass"
    rtx = manifest.details["rtx"]
    assert rtx["targets"] == ["sm75", "sm86"]
    assert rtx["tensorrt_rtx"] == import_rtx().__version__
    assert rtx["engines"]["sm75"]["compute_capability"] == "7.5"
    assert rtx["profile"]["maximum"] == [4, 3, 32, 32]
    assert set(weighted(rtx["layers"])) == {"fp16"}
    for engine in rtx["engines"].values():
        assert manifest.files[engine["file"]].size == engine["bytes"] > 100_000


@needs_library
def test_a_changed_byte_of_an_engine_is_refused(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    made = exported(trained, pixel_cache, tmp_path / "rtx", "fp16", "sm89")
    engine = made.folder / "model-sm89.engine"
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model-sm89\.engine: has changed since the export"):
        open_artifact(made.folder)


@needs_library
def test_verify_judges_the_graph_and_says_where_the_engines_are_judged(
    run_copy: Path, pixel_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = exported(run_copy, pixel_cache, run_copy / "rtx", "fp16", "sm75,sm86")
    said = ["verify", str(made.folder), "--cache", str(pixel_cache), "--allow-inconclusive", "--json"]
    assert main(said) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith("the graph was judged; its engines for sm75, sm86 are judged on such a card")


@needs_library
def test_the_command_names_the_engines(
    run_copy: Path, pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["--format", "trt-rtx", "--precision", "fp16", "--for", "t4,sm120", "--out", str(tmp_path / "rtx")]
    assert main(["export", str(run_copy), "--cache", str(pixel_cache), *said]) == 0
    assert "model-sm75.engine, model-sm120.engine" in " ".join(capsys.readouterr().out.split())


@needs_library
def test_samples_are_made_up_unless_images_are_asked_for(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    """Images of patients do not leave the machine unasked; the outputs to expect are the shipped graph's."""
    for count, name in ((0, "made-up"), (3, "images")):
        made = exported(trained, pixel_cache, tmp_path / name, "fp32", "sm75", samples=count)
        with np.load(made.folder / "samples.npz", allow_pickle=False) as stored:
            assert len(stored["pixels"]) == (count or 8)
            session = onnxruntime.InferenceSession(made.model_path, providers=["CPUExecutionProvider"])
            scaled = stored["pixels"].transpose(0, 3, 1, 2).astype(np.float32) / (255 * stored["std"][:, None, None])
            batch = (scaled - (stored["mean"] / stored["std"])[:, None, None]).astype(np.float32)
            np.testing.assert_allclose(session.run(None, {"images": batch})[0], stored["expected"], atol=1e-4)
            np.testing.assert_allclose(stored["expected"], stored["pytorch"], atol=1e-4)
            assert stored["expected"].std(axis=0).max() > 0.01


@needs_library
def test_fp32_for_turing_ships_the_graph_that_was_judged(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    made = exported(trained, pixel_cache, tmp_path / "rtx", "fp32", "sm75,sm86")
    proto = onnx.load(made.model_path)
    assert "Gemm" not in {node.op_type for node in proto.graph.node}
    assert made.manifest.details["rtx"]["head"] == "1x1 convolution"
    assert lint(proto, turing=True) == []
    other = exported(trained, pixel_cache, tmp_path / "other", "fp32", "sm86")
    assert other.manifest.details["rtx"]["head"] == "as exported"
    assert "Gemm" in {node.op_type for node in onnx.load(other.model_path).graph.node}


@needs_library
def test_int8_engines_compute_in_int8(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    made = exported(trained, pixel_cache, tmp_path / "rtx", "int8", "sm86", max_auroc_drop=None)
    counts = weighted(made.manifest.details["rtx"]["layers"])
    assert set(counts) == {"int8"}


@needs_library
def test_bf16_is_judged_by_an_engine_that_has_it(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    made = exported(trained, pixel_cache, tmp_path / "rtx", "bf16", "l4")
    assert set(weighted(made.manifest.details["rtx"]["layers"])) == {"bf16"}
    assert made.manifest.parity is not None


@pytest.mark.parametrize(
    ("precision", "cards", "refused"),
    [
        ("int8", "sm75", "int8 cannot be had for sm75: .* all float; pass --precision fp16$"),
        ("int8", "t4,sm86,l4", r"all float; pass --precision fp16, and int8 for sm86,sm89 in an export of its own"),
        ("bf16", "quadro-rtx-6000", "bf16 cannot be had for sm75: Turing has no bfloat16; pass --precision fp16"),
        (
            "fp16",
            "h100-sxm",
            r"builds nothing for h100-sxm \(sm90\); it builds for sm75, .*; full TensorRT on that machine",
        ),
        ("fp16", "sm87", "builds nothing for sm87"),
        ("fp16", "raspberry-pi-5", "raspberry-pi-5 is no NVIDIA GPU"),
        ("fp16", "quadro-rtx-600", "unknown card 'quadro-rtx-600'; nearest: quadro-rtx-6000"),
        ("fp16", " , ", "names no card"),
        ("fp16", "sm86,current", "unknown card 'current'"),
    ],
)
def test_what_a_card_cannot_be_given_is_refused_before_the_run_is_read(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, cards: str, refused: str
) -> None:
    monkeypatch.setattr(runtime, "missing", lambda: None)
    monkeypatch.setattr("ttl_deploy.formats.export_run.load_model", lambda run: pytest.fail("the run was read"))
    with pytest.raises(BadInputError, match=refused) as error:
        exported(run_copy, tmp_path, tmp_path / "rtx", precision, cards)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "rtx").exists()


def test_without_a_gpu_a_card_must_be_named(run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if hardware.describe().gpus:
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(runtime, "missing", lambda: None)
    with pytest.raises(BadInputError, match="no card was named, and no NVIDIA GPU is here"):
        export_run(run_copy, format="trt-rtx", out=tmp_path / "rtx")


@pytest.mark.parametrize("option", ["optimization_level", "hardware", "version_compatible"])
def test_options_that_the_library_ignores_are_refused(run_copy: Path, tmp_path: Path, option: str) -> None:
    exporter = EXPORTERS.get("trt-rtx")
    assert option not in exporter.options.model_fields
    with pytest.raises((BadInputError, MissingDependencyError), match=f"no option {option!r}|not installed"):
        export_run(run_copy, format="trt-rtx", targets="sm86", out=tmp_path / "rtx", settings={option: 1})


def test_without_the_extra_both_ways_out_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_installed", lambda: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ttl-deploy\[rtx\]'.*--defer-build") as error:
        choose("trt-rtx", "fp16")
    assert "\n" not in str(error.value)
    with pytest.raises(MissingDependencyError, match="not installed"):
        import_rtx()


def test_names_of_cards() -> None:
    assert rtx_cards.architectures("SM_86, 8.9,sm120,12.0,T4") == ("sm86", "sm89", "sm120", "sm75")
    assert [capability(name) for name in ("sm75", "sm120")] == ["7.5", "12.0"]
    assert named("12.1") == "sm121"


@needs_library
def test_the_table_knows_exactly_what_the_library_builds_for() -> None:
    members = {name.lower() for name in dir(import_rtx().ComputeCapability) if name.startswith("SM")}
    assert members == set(GENERATIONS)


@needs_library
def test_the_library_itself_refuses_what_is_rewritten_for_turing(plain: onnx.ModelProto) -> None:
    """Where a later release builds it, the rewriting can go."""
    trt = import_rtx()
    with pytest.raises(BuildError, match=r"head\.fc.*FP32 GEMM is not supported"):
        build_for(trt, plain.SerializeToString(), settings("fp32"), "sm75")
    assert [finding.node for finding in lint(plain, turing=True)] == ["head.fc"]
    assert lint(plain) == []
    for form in FORMS:
        assert len(build_for(trt, rewritten(plain, form).SerializeToString(), settings("fp32"), "sm75").plan) > 100_000


@needs_library
def test_bf16_for_turing_is_refused_by_the_library_too() -> None:
    graph = to_half(to_onnx(made(SPECS[0]), 22), "bf16")
    with pytest.raises(BuildError, match="HW-specific datatypes: b16"):
        build_for(import_rtx(), graph.SerializeToString(), settings("bf16"), "sm75")


@needs_library
def test_a_graph_of_another_precision_than_asked_is_refused(plain: onnx.ModelProto) -> None:
    with pytest.raises(BuildError, match="does not run fp16: its computing layers are 9 fp32"):
        build_for(import_rtx(), plain.SerializeToString(), settings("fp16"), "sm86")


@needs_library
@pytest.mark.parametrize(("content", "said"), [(b"no graph", "cannot read the graph"), (b"", "none of a known type")])
def test_what_is_no_graph_is_one_line(content: bytes, said: str) -> None:
    with pytest.raises(BuildError, match=said) as error:
        build_for(import_rtx(), content, settings("fp32"), "sm86")
    assert "\n" not in str(error.value)


@needs_library
def test_shapes_out_of_order_are_refused(plain: onnx.ModelProto) -> None:
    shape = (3, 48, 48)
    wrong = Settings("fp32", "images", (8, *shape), (1, *shape), (4, *shape), optimization_level=None)
    with pytest.raises((BuildError, ValueError)):
        build_for(import_rtx(), plain.SerializeToString(), wrong, "sm86")


@needs_library
def test_an_architecture_that_the_library_has_not_is_said(plain: onnx.ModelProto) -> None:
    with pytest.raises(BuildError, match=r"TensorRT for RTX .* does not build for sm90"):
        build_for(import_rtx(), plain.SerializeToString(), settings("fp32"), "sm90")


def product_graph(operator: str, bias: Sequence[int] | None, **attributes: float) -> onnx.ModelProto:
    """(N, 6) to (N, 4) by one product."""
    generator = np.random.default_rng(0)
    shape = (4, 6) if attributes.get("transB") else (6, 4)
    constants = [numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), "w")]
    names = ["x", "w"]
    if bias is not None:
        constants.append(numpy_helper.from_array(generator.normal(size=bias).astype(np.float32), "b"))
        names.append("b")
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], name="fc", **attributes)],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("operator", "bias", "attributes"),
    [
        ("Gemm", [4], {"transB": 1}),
        ("Gemm", [1, 4], {}),
        ("Gemm", [1], {}),
        ("Gemm", None, {"transB": 1}),
        ("MatMul", None, {}),
    ],
)
def test_the_rewritten_product_gives_the_same_numbers(
    form: str, operator: str, bias: Sequence[int] | None, attributes: dict[str, float]
) -> None:
    before = product_graph(operator, bias, **attributes)
    after = rewritten(before, form)
    onnx.checker.check_model(after, full_check=True)
    assert not {"Gemm", "MatMul"} & {node.op_type for node in after.graph.node}
    assert {node.op_type for node in before.graph.node} == {operator}
    for rows in (1, 3):
        x = np.random.default_rng(rows).normal(size=(rows, 6)).astype(np.float32)
        given = [
            onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": x}) for graph in (before, after)
        ]
        np.testing.assert_allclose(given[1][0], given[0][0], atol=1e-5)


@pytest.mark.parametrize("attributes", [{"alpha": 2.0}, {"beta": 0.5}])
def test_a_product_that_is_scaled_is_left_and_told(attributes: dict[str, float]) -> None:
    proto = product_graph("Gemm", [4], **attributes)
    assert [node.op_type for node in rewritten(proto, "1x1 convolution").graph.node] == ["Gemm"]
    assert [finding.operator for finding in lint(proto, turing=True)] == ["Gemm"]


def test_a_convolution_over_three_axes_is_told_for_turing_in_fp32_alone() -> None:
    weight = numpy_helper.from_array(np.zeros((2, 1, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "volume",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 6, 6, 6])],
        [weight],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert lint(proto) == []
    assert [finding.operator for finding in lint(proto, turing=True)] == ["Conv"]


def test_exports_leave_nothing_where_an_engine_does_not_build(
    trained: Path, pixel_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise BuildError("TensorRT cannot build the engine: no tactic")

    monkeypatch.setattr(runtime, "missing", lambda: None)
    monkeypatch.setattr(trt_rtx, "import_rtx", lambda: None)
    monkeypatch.setattr(trt_rtx, "build_for", fails)
    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    before = sorted(path.name for path in copy.iterdir())
    with pytest.raises(Exception, match="no tactic; nothing was written"):
        export_run(copy, format="trt-rtx", precision="fp32", targets="sm75", cache=pixel_cache)
    assert sorted(path.name for path in copy.iterdir()) == before


def test_the_manifest_is_plain_json(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    if runtime.missing() is not None:
        pytest.skip(str(runtime.missing()))
    made = exported(trained, pixel_cache, tmp_path / "rtx", "fp16", "sm120")
    assert json.loads((made.folder / "manifest.json").read_text())["details"]["rtx"]["targets"] == ["sm120"]


class TestTheHeadlineCommand:
    """`--format trt --for CARD` where full TensorRT or the GPU is missing."""

    @pytest.fixture(autouse=True)
    def _no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trt, "available", lambda: "no NVIDIA GPU is here")

    @needs_library
    def test_gives_the_engine_of_the_other_edition_and_says_so(
        self, trained: Path, pixel_cache: Path, tmp_path: Path
    ) -> None:
        said: list[str] = []

        class Told(Silent):
            def info(self, message: str) -> None:
                said.append(message)

        copy = Path(shutil.copytree(trained, tmp_path / "run"))
        made = export_run(
            copy, format="trt", precision="fp16", targets="quadro-rtx-6000", cache=pixel_cache, reporter=Told()
        )
        assert made.folder == copy / "trt-rtx-fp16"
        assert made.manifest.details["rtx"]["targets"] == ["sm75"]
        assert said == ["no NVIDIA GPU is here: TensorRT for RTX builds the engines (--format trt-rtx)"]

    def test_without_the_extra_one_line_names_both_ways_out(
        self, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(runtime, "_installed", lambda: None)
        with pytest.raises(MissingDependencyError, match=r"--defer-build.*pip install 'ttl-deploy\[rtx\]'") as error:
            export_run(trained, format="trt", targets="sm86", out=tmp_path / "out")
        assert "\n" not in str(error.value)

    def test_without_a_card_the_way_out_is_said(
        self, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(runtime, "_installed", lambda: "tensorrt_rtx_bindings")
        with pytest.raises(MissingDependencyError, match=r"--defer-build .*, or --for CARD to build one") as error:
            export_run(trained, format="trt", out=tmp_path / "out")
        assert "pip install" not in str(error.value)

    def test_a_precision_of_full_tensorrt_alone_is_refused(
        self, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(runtime, "_installed", lambda: "tensorrt_rtx_bindings")
        with pytest.raises(BadInputError, match="format trt-rtx has no precision 'tf32'"):
            export_run(trained, format="trt", precision="tf32", targets="sm86", out=tmp_path / "out")

    def test_an_option_of_full_tensorrt_alone_is_refused(
        self, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(runtime, "_installed", lambda: "tensorrt_rtx_bindings")
        with pytest.raises(BadInputError, match="format trt-rtx has no option 'optimization_level'"):
            export_run(trained, format="trt", targets="sm86", optimization_level=5, out=tmp_path / "out")


class HereIs:
    """Stands for an open driver."""

    def __enter__(self) -> HereIs:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def device(self) -> Device:
        return Device("NVIDIA H100", "9.0")


def test_full_tensorrt_builds_for_the_gpu_that_is_here_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "available", lambda: None)
    monkeypatch.setattr(trt_engine, "open_cuda", HereIs)
    exporter = EXPORTERS.get("trt")
    assert exporter.stand_in({"targets": "sm86"}) is None
    exporter.check("fp16", TrtOptions(targets="h100-sxm,9.0"))
    exporter.check("fp16", TrtOptions())
    with pytest.raises(BadInputError, match=r"NVIDIA H100 \(sm90\), and not for sm75; pass --format trt-rtx"):
        exporter.check("fp16", TrtOptions(targets="quadro-rtx-6000,sm90"))
